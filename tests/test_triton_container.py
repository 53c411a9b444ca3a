"""The files for NVIDIA's container, as far as they can be checked without one."""

import json
import os
import subprocess

import pytest
import yaml
from triton_support import ROOT, write_onnx

from rice_lib.deploy.triton.repository import CONFIG_FILES, write_repository

COMPOSE = ROOT / "serving" / "compose.yaml"
SCRIPT = ROOT / "serving" / "build_plan.sh"

TRTEXEC = """#!/bin/bash
echo "$*" > "$(dirname "$0")/arguments"
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v100500] [b18] # trtexec"
for word in "$@"; do case $word in --saveEngine=*) [[ $BROKEN ]] || echo plan > "${word#*=}" ;; esac; done
[[ ! $BROKEN ]]
"""
NVIDIA_SMI = "#!/bin/bash\necho 'NVIDIA L4, 560.35.03'\n"


@pytest.fixture
def folder(tmp_path):
    return write_repository(write_onnx(tmp_path / "model.onnx"), tmp_path / "repository", "rice", 9)


def build(tmp_path, *arguments, tools=("trtexec", "nvidia-smi"), **variables):
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, text in (("trtexec", TRTEXEC), ("nvidia-smi", NVIDIA_SMI)):
        if name in tools:
            (binaries / name).write_text(text)
            (binaries / name).chmod(0o755)
    variables = {"PATH": f"{binaries}:/usr/bin:/bin", **variables}
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, env=variables, check=False)


def test_the_plan_lies_where_the_tensorrt_config_looks_with_its_provenance(tmp_path, folder):
    answer = build(tmp_path, folder, tmp_path / "model.onnx")
    assert answer.returncode == 0, answer.stderr
    assert sorted(os.listdir(folder / "1")) == ["model.onnx", "model.plan", "model.plan.json"]
    facts = json.loads((folder / "1" / "model.plan.json").read_text())
    assert (facts["gpu"], facts["driver"], facts["tensorrt"]) == ("NVIDIA L4", "560.35.03", "v100500")
    assert facts["max_batch_size"] == 9
    arguments = (tmp_path / "bin" / "arguments").read_text().split()
    assert "--stronglyTyped" in arguments
    assert {"--minShapes=images:1x224x224x3", "--maxShapes=images:9x224x224x3"} <= set(arguments)


@pytest.mark.parametrize(("tools", "match"), [(("nvidia-smi",), "no trtexec"), (("trtexec",), "no GPU is visible")])
def test_what_the_container_lacks_is_named(tmp_path, folder, tools, match):
    answer = build(tmp_path, folder, tools=tools)
    assert answer.returncode == 2
    assert match in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_failed_build_leaves_no_half_plan(tmp_path, folder):
    assert build(tmp_path, folder, BROKEN="1").returncode != 0
    assert os.listdir(folder / "1") == ["model.onnx"]


def test_a_folder_that_is_no_model_is_named(tmp_path):
    answer = build(tmp_path, tmp_path)
    assert answer.returncode == 2
    assert "write the model repository first" in answer.stderr


def test_compose_serves_this_machine_alone_and_knows_both_configs():
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    triton, plan = services["triton"], services["plan"]
    assert all(port.startswith("127.0.0.1:") for port in triton["ports"])
    assert triton["volumes"] == ["../models/${RICE_PROFILE:-full}/repository:/models:ro"]
    (option,) = (word for word in triton["command"] if "model-config-name" in word)
    assert option.endswith("${RICE_ENGINE:-onnxruntime}")
    assert CONFIG_FILES["tensorrt"] == "configs/tensorrt.pbtxt"
    # the plan is built by the release that serves it: one tag for both images
    assert triton["image"].partition("tritonserver")[2].split(":", 1)[1] == plan["image"].split("}:", 1)[1]
    assert "./build_plan.sh:/build_plan.sh:ro" in plan["volumes"]
