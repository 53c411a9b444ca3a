"""The files for NVIDIA's container, as far as they can be checked without one."""

import os
import re
import shutil
import signal
import subprocess

import onnx
import pytest
import yaml
from support.triton import ROOT, write_onnx

from rice_lib.backends.cuda import Gpu
from rice_lib.backends.plan import BatchProfile, EngineManifest, check_manifest
from rice_lib.backends.predictor import parse_decision
from rice_lib.common.files import sha256_file
from rice_lib.contract.decision import KEY, Decision
from rice_lib.data.synthetic import VARIETIES
from rice_lib.serving.repository import VARIANTS, write_repository
from rice_lib.serving.server import RESTRICTED, public_models

SERVING = ROOT / "serving"
COMPOSE, GPU, SCRIPT = SERVING / "compose.yaml", SERVING / "compose.gpu.yaml", SERVING / "build_plan.sh"

TRTEXEC = """#!/bin/bash
echo "$*" > "$(dirname "$0")/arguments"
echo "&&&& RUNNING TensorRT.trtexec [TensorRT v100900] [b34] # trtexec"
for word in "$@"; do case $word in --saveEngine=*) [[ $BROKEN ]] || echo plan > "${word#*=}" ;; esac; done
[[ ! $BROKEN ]]
"""
NVIDIA_SMI = """#!/bin/bash
case $1 in
  --query-gpu=name,compute_cap) echo 'NVIDIA L4, 8.9' ;;
  *) echo '| NVIDIA-SMI 560.35.03    Driver Version: 560.35.03    CUDA Version: 12.6   |' ;;
esac
"""


@pytest.fixture
def repository(tmp_path):
    return write_repository(write_onnx(tmp_path / "model.onnx"), tmp_path / "repository", "rice", 9)


@pytest.fixture
def folder(repository):
    """What the script is given."""
    return repository.folder / "rice"


@pytest.fixture
def place(repository):
    """Where the plan belongs."""
    return repository.classifier(1) / "1"


def build(tmp_path, *arguments, tools=("trtexec", "nvidia-smi"), **variables):
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name, text in (("trtexec", TRTEXEC), ("nvidia-smi", NVIDIA_SMI)):
        if name in tools:
            (binaries / name).write_text(text)
            (binaries / name).chmod(0o755)
    variables = {"PATH": f"{binaries}:/usr/bin:/bin", **variables}
    return subprocess.run(["bash", SCRIPT, *arguments], capture_output=True, text=True, env=variables, check=False)


def test_the_plan_lies_where_the_tensorrt_config_looks_with_its_provenance(tmp_path, folder, place):
    answer = build(tmp_path, folder)
    assert answer.returncode == 0, answer.stderr
    assert sorted(os.listdir(place)) == ["model.onnx", "model.plan", "model.plan.json"]
    plan, gpu = place / "model.plan", Gpu("NVIDIA L4", "8.9", "12.6")
    manifest = EngineManifest.read(plan)
    assert manifest == EngineManifest(
        flavour="tensorrt",
        tensorrt="10.9.0.34",
        gpu=gpu,
        onnx=str(place / "model.onnx"),
        onnx_sha256=sha256_file(place / "model.onnx"),
        plan_sha256=sha256_file(plan),
        precision="float32",
        profile=BatchProfile(1, 5, 9),
        labels=VARIETIES,
        decision=manifest.decision,
    )
    assert parse_decision(manifest.decision, "the manifest", VARIETIES) == Decision()
    check_manifest(manifest, plan, "10.9.0.34", gpu)
    arguments = (tmp_path / "bin" / "arguments").read_text().split()
    assert {"--stronglyTyped", f"--onnx={place / 'model.onnx'}"} <= set(arguments)
    assert {"--minShapes=images:1x224x224x3", "--maxShapes=images:9x224x224x3"} <= set(arguments)


def test_the_manifest_of_a_plan_has_the_models_precision_and_decision(tmp_path):
    source = write_onnx(tmp_path / "model.onnx")
    model, decision = onnx.load(source), Decision(temperature=2.0)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**metadata, "precision": "float16", KEY: decision.to_json()})
    onnx.save(model, source)
    repository = write_repository(source, tmp_path / "repository", "rice", 9)
    assert build(tmp_path, repository.folder / "rice").returncode == 0
    manifest = EngineManifest.read(repository.classifier(1) / "1" / "model.plan")
    assert manifest.precision == "float16"
    assert parse_decision(manifest.decision, "the manifest", manifest.labels).to_json() == decision.to_json()


@pytest.mark.parametrize(("named", "built"), [((), 1), (("2",), 2)])
def test_the_plan_is_of_the_version_that_answers_or_of_the_one_named(tmp_path, repository, folder, named, built):
    repository.add(write_onnx(tmp_path / "newer.onnx", ("a", "b")), 4)
    assert build(tmp_path, f"{folder}/", *named).returncode == 0
    assert [version for version in (1, 2) if (repository.classifier(version) / "1" / "model.plan").exists()] == [built]


def test_a_version_that_is_not_there_is_named(tmp_path, folder):
    answer = build(tmp_path, folder, "7")
    assert answer.returncode == 2
    assert "the repository has no version 7" in answer.stderr


@pytest.mark.parametrize(("tools", "match"), [(("nvidia-smi",), "no trtexec"), (("trtexec",), "no GPU is visible")])
def test_what_the_container_lacks_is_named(tmp_path, folder, tools, match):
    answer = build(tmp_path, folder, tools=tools)
    assert answer.returncode == 2
    assert match in answer.stderr
    assert answer.stderr.count("\n") == 1


def test_a_failed_build_leaves_no_half_plan(tmp_path, folder, place):
    assert build(tmp_path, folder, BROKEN="1").returncode != 0
    assert os.listdir(place) == ["model.onnx"]


def test_a_folder_that_is_no_model_is_named(tmp_path):
    answer = build(tmp_path, tmp_path)
    assert answer.returncode == 2
    assert "write the model repository first" in answer.stderr


def test_the_image_has_the_locks_numpy_and_pillow_and_a_python_that_runs_the_decoder():
    text = (SERVING / "Dockerfile").read_text()
    pinned = dict(re.findall(r"(numpy|pillow)==([\d.]+)", text))
    # the image's Python is 3.12
    lines = (ROOT / "requirements-serve.lock").read_text().splitlines()
    lock = dict(re.findall(r"^(numpy|pillow)==([\d.]+)", "\n".join(x for x in lines if ">= '3.13'" not in x), re.M))
    assert pinned == lock
    assert set(pinned) == {"numpy", "pillow"}
    year, month = map(int, re.search(r"ARG TRITON_TAG=(\d+)\.(\d+)", text).groups())
    assert (year, month) >= (26, 5), "earlier servers end at a request's will"
    assert "\nUSER 1000:1000\n" in text
    for name in ("start", "health"):
        assert f"COPY {name}.sh /usr/local/bin/rice-{name}\n" in text
        assert os.access(SERVING / f"{name}.sh", os.X_OK)


def start(tmp_path, **variables):
    """The options that the container gives tritonserver."""
    server = tmp_path / "tritonserver"
    server.write_text('#!/bin/bash\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", **variables}
    command = [SERVING / "start.sh", "--log-verbose=1"]
    return subprocess.run(command, capture_output=True, text=True, env=variables, check=True).stdout.splitlines()


def test_the_container_loads_what_clients_ask_and_nothing_else(tmp_path):
    plain = [word for word in start(tmp_path) if "restricted" not in word]
    loaded = [f"--load-model={name}" for name in public_models("rice")]
    options = ["--model-repository=/models", "--model-control-mode=explicit", *loaded]
    assert plain == [*options, "--exit-timeout-secs=8", "--log-verbose=1"]
    basmati = start(tmp_path, RICE_MODEL="basmati")
    assert [f"--load-model={name}" for name in public_models("basmati")] == [w for w in basmati if "load" in w]


@pytest.mark.parametrize("engine", ["gpu", "tensorrt"])
def test_an_engine_is_a_config_that_the_repository_has(tmp_path, engine):
    assert f"--model-config-name={engine}" in start(tmp_path, RICE_ENGINE=engine)
    assert VARIANTS[engine] == f"configs/{engine}.pbtxt"


def test_model_control_takes_a_key_that_nobody_knows_where_none_is_given(tmp_path):
    once, again, given = (
        [word for word in start(tmp_path, **variables) if "restricted" in word]
        for variables in ({}, {}, {"RICE_KEY": "a key"})
    )
    options = ["--http-restricted-api", "--grpc-restricted-protocol"]
    protected = re.compile(rf"={re.escape(RESTRICTED)}[0-9a-f]{{32}}$")
    assert [protected.sub("", word) for word in once] == options
    assert once != again
    assert given == [f"{option}={RESTRICTED}a key" for option in options]


@pytest.mark.parametrize(
    ("answers", "dead"),
    [("ok", False), ("Exceeds maximum queue size", False), ("Stub process 'rice_v2_decode_0_1' is not healthy.", True)],
)
def test_a_container_with_a_dead_worker_ends_its_server(tmp_path, answers, dead):
    for version in (9, 10):
        grain = tmp_path / f"models/rice_v{version}_decode/warmup/grain"
        grain.parent.mkdir(parents=True)
        grain.write_bytes(b"1234" + f"grain {version}".encode())
    curl = tmp_path / "curl"
    curl.write_text(
        "#!/bin/bash\ncase $* in *ready*) ;; *binary*) "
        f'[[ $(cat) == "grain 10" ]] && echo "$$" >> {tmp_path}/sent && echo "{answers}" ;; esac\n'
    )
    curl.chmod(0o755)
    with subprocess.Popen(["sleep", "60"]) as server:
        variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", "RICE_MODELS": str(tmp_path / "models")}
        variables["RICE_SERVER_PID"] = str(server.pid)
        done = subprocess.run([SERVING / "health.sh"], capture_output=True, text=True, env=variables, check=False)
        assert (done.returncode, done.stderr) == ((1, "a worker is dead\n") if dead else (0, ""))
        if not dead:
            assert server.poll() is None
            server.kill()
        assert server.wait() == (-signal.SIGTERM if dead else -signal.SIGKILL)
    assert len((tmp_path / "sent").read_text().splitlines()) == 2 * len(os.sched_getaffinity(0))


def services():
    return (yaml.safe_load(file.read_text())["services"] for file in (COMPOSE, GPU))


def test_compose_serves_this_machine_alone_without_a_gpu():
    (triton,) = next(services()).values()
    assert [port.split("}:")[1:] for port in triton["ports"]] == [
        ["${RICE_PORT:-8000", "8000"],
        ["${RICE_GRPC_PORT:-8001", "8001"],
        ["${RICE_METRICS_PORT:-8002", "8002"],
    ]
    assert all(port.startswith("${RICE_HOST:-127.0.0.1}:") for port in triton["ports"])
    (models,) = triton["volumes"]
    assert models["source"] == "../models/${RICE_SERVICE:-service/repository}"
    assert models["read_only"]
    assert triton["environment"] == {"RICE_MODEL": "${RICE_MODEL:-rice}", "RICE_KEY": "${RICE_KEY:-}"}
    assert "deploy" not in triton


def test_the_gpu_file_adds_a_gpu_and_its_engine():
    _, gpu = services()
    assert gpu["triton"].keys() == {"environment", "deploy"}
    assert gpu["triton"]["environment"] == {"RICE_ENGINE": "${RICE_ENGINE:-gpu}"}
    (device,) = gpu["triton"]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_the_plan_is_built_in_the_image_that_serves_it_and_written_where_it_is_served():
    base, gpu = services()
    triton, plan = base["triton"], gpu["plan"]
    assert plan["image"].replace("${PLAN_IMAGE:-rice-triton}", "rice-triton") == triton["image"]
    models, script = plan["volumes"]
    assert {**models, "read_only": True} == triton["volumes"][0]
    assert script == f"./{SCRIPT.name}:{plan['entrypoint'][1]}:ro"
    assert plan["deploy"] == gpu["triton"]["deploy"]


@pytest.mark.parametrize("files", [(COMPOSE,), (COMPOSE, GPU)], ids=["cpu", "gpu"])
def test_compose_itself_reads_the_files(files):
    if not (compose := compose_command()):
        pytest.skip("no docker compose here")
    named = [word for file in files for word in ("--file", str(file))]
    variables = {**os.environ, "RICE_SERVICE": "full/service/repository", "RICE_PORT": "9000"}
    done = subprocess.run(
        [*compose, *named, "--profile", "tools", "config"], capture_output=True, text=True, env=variables, check=False
    )
    assert done.returncode == 0, done.stderr
    triton = yaml.safe_load(done.stdout)["services"]["triton"]
    assert triton["volumes"][0]["source"] == str(ROOT / "models/full/service/repository")
    gpu = {"RICE_ENGINE": "gpu"} if GPU in files else {}
    assert triton["environment"] == {"RICE_MODEL": "rice", "RICE_KEY": "", **gpu}
    assert ("deploy" in triton) == (GPU in files)


def compose_command():
    docker = shutil.which("docker")
    if docker and subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return [docker, "compose"]
    return [shutil.which("docker-compose")] if shutil.which("docker-compose") else None
