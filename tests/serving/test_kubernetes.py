"""The Kubernetes manifest against Kubernetes' own schemas, and against the compose files that it must agree with."""

import re

import kubernetes_validate
import pytest
import yaml
from support.triton import ROOT

from rice_lib.serving.server import public_models

SERVING = ROOT / "serving"
DEPLOYMENT, SERVICE = yaml.safe_load_all((SERVING / "kubernetes.yaml").read_text())
POD = DEPLOYMENT["spec"]["template"]["spec"]
(CONTAINER,) = POD["containers"]
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")


@pytest.mark.parametrize("release", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("resource", [DEPLOYMENT, SERVICE], ids=lambda resource: resource["kind"])
def test_kubernetes_knows_every_field(resource, release):
    kubernetes_validate.validate(resource, release, strict=True)


def test_a_field_that_kubernetes_does_not_know_would_be_found():
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**SERVICE, "sepc": {}}, kubernetes_validate.latest_version(), strict=True)


def test_the_server_runs_as_compose_runs_it():
    base, gpu = (yaml.safe_load((SERVING / name).read_text()) for name in ("compose.yaml", "compose.gpu.yaml"))
    triton = base["services"]["triton"]
    variables = {variable["name"]: variable["value"] for variable in CONTAINER["env"]}
    assert triton["environment"]["RICE_MODEL"] == f"${{RICE_MODEL:-{variables['RICE_MODEL']}}}"
    assert gpu["services"]["triton"]["environment"]["RICE_ENGINE"] == f"${{RICE_ENGINE:-{variables['RICE_ENGINE']}}}"
    assert not {"args", "command"} & CONTAINER.keys()
    image = triton["image"].replace("${TRITON_TAG:-26.07}", "26.07")
    assert CONTAINER["image"].endswith(f"/{image}")
    ports = [port["containerPort"] for port in CONTAINER["ports"]]
    assert ports == [int(port.rpartition(":")[2]) for port in triton["ports"]]
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert mounts["/models"]["readOnly"]
    assert triton["healthcheck"]["test"][1:] == CONTAINER["livenessProbe"]["exec"]["command"]


def test_model_control_is_disabled_where_a_cluster_reaches_the_server():
    assert "RICE_KEY" not in {variable["name"] for variable in CONTAINER["env"]}  # start.sh makes one


def test_the_model_whose_readiness_the_comment_names_is_one_that_is_served():
    (named,) = re.findall(r"/v2/models/(\w+)/ready", (SERVING / "kubernetes.yaml").read_text())
    assert named in public_models("rice")


def test_the_service_reaches_the_pod():
    assert SERVICE["spec"]["selector"].items() <= DEPLOYMENT["spec"]["template"]["metadata"]["labels"].items()
    assert DEPLOYMENT["spec"]["selector"]["matchLabels"] == SERVICE["spec"]["selector"]
    named = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert {port["targetPort"]: port["port"] for port in SERVICE["spec"]["ports"]} == named
    assert DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"] == str(named["metrics"])
    assert all(CONTAINER[probe]["httpGet"]["port"] == "http" for probe in ("startupProbe", "readinessProbe"))


def test_volumes_are_there_and_shared_memory_fits_the_limit():
    assert {mount["name"] for mount in CONTAINER["volumeMounts"]} == {volume["name"] for volume in POD["volumes"]}
    shm = next(volume for volume in POD["volumes"] if volume["name"] == "shm")["emptyDir"]
    assert shm == {"medium": "Memory", "sizeLimit": "1Gi"}
    assert CONTAINER["resources"]["limits"] == {"memory": "8Gi", "nvidia.com/gpu": 1}


def test_the_pod_needs_no_rights():
    assert POD["securityContext"]["runAsNonRoot"]
    assert POD["securityContext"]["runAsUser"] == 1000
    assert CONTAINER["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}


def test_a_rollout_and_an_end_lose_no_request():
    assert DEPLOYMENT["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    pause = int(CONTAINER["lifecycle"]["preStop"]["exec"]["command"][1])
    seconds = int(re.search(r"--exit-timeout-secs=(\d+)", (SERVING / "start.sh").read_text())[1])
    assert POD["terminationGracePeriodSeconds"] > pause + seconds
