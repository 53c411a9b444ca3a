"""The project's own files: the environment that make installs, its lock, what CI runs, citation and changelog."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCK = tomllib.loads((ROOT / "uv.lock").read_text())
PYTHONS = ["3.11", "3.12", "3.13"]
CUDA = re.compile(r"^(nvidia|cuda)-|^triton$")


def locked(name):
    """Return the one version that uv.lock has of a package."""
    (version,) = {package["version"] for package in LOCK["package"] if package["name"] == name}
    return version


@pytest.fixture(scope="session")
def uv():
    found = shutil.which("uv") or next(map(str, (ROOT / ".uv").glob("*/uv")), None)
    if found is None:
        pytest.skip("uv is neither in PATH nor in .uv, where make puts it")
    return found


@pytest.fixture
def make(uv):
    """Return a function that runs make in a folder, without what an outer make handed down."""

    def run(folder, *arguments, python=sys.executable, returncode=0):
        hidden = {"MAKEFLAGS", "MAKEOVERRIDES", "MFLAGS", "DEVICE", "TORCH_INDEX", "PYTHON", "ACTIVE", "VIRTUAL_ENV"}
        if python:
            arguments = (*arguments, f"PYTHON={python}")
        done = subprocess.run(
            ["make", "--directory", folder, *arguments, f"UV={uv}"],
            env={name: value for name, value in os.environ.items() if name not in hidden} | {"UV_OFFLINE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == returncode, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


# The environment


@pytest.fixture
def torch_index(tmp_path):
    """Return the address of a simple index that has torch and torchvision for a CPU, empty but for their metadata."""
    for name in ("torch", "torchvision"):
        version = f"{locked(name)}+cpu"
        folder = tmp_path / "simple" / name
        folder.mkdir(parents=True)
        wheel = f"{name}-{version}-py3-none-any.whl"
        information = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / wheel, "w") as file:
            file.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
            file.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            file.writestr(f"{information}/RECORD", "")
        (folder / "index.html").write_text(f'<a href="{wheel}">{wheel}</a>')
    return (tmp_path / "simple").as_uri()


@pytest.fixture
def checkout(tmp_path):
    """Return a folder with what `make venv` reads."""
    folder = tmp_path / "checkout"
    (folder / "src" / "rice_lib").mkdir(parents=True)
    (folder / "src" / "rice_lib" / "__init__.py").touch()
    for name in ("Makefile", "pyproject.toml", "uv.lock", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    return folder


def installed(output):
    """Return what a dry run would install: version by name."""
    return dict(re.findall(r"^ \+ ([^ =]+)==(\S+)", output, re.MULTILINE))


def test_torch_comes_from_the_index_named_and_cuda_stays_out(make, checkout, torch_index):
    usual = installed(make(checkout, "venv", "DRY_RUN=1"))
    light = installed(make(checkout, "venv", "DRY_RUN=1", f"TORCH_INDEX={torch_index}"))
    assert light["torch"] == f"{locked('torch')}+cpu"
    assert light["torchvision"] == f"{locked('torchvision')}+cpu"
    assert [name for name in light if CUDA.match(name)] == []
    left_out = usual.keys() - light.keys()
    assert [name for name in left_out if not CUDA.match(name)] == []
    if sys.platform == "linux":
        assert {"nvidia-cublas", "triton"} <= left_out
    assert {name: light[name] for name in light if not name.startswith("torch")} == {
        name: usual[name] for name in usual if name not in left_out and not name.startswith("torch")
    }
    assert not (checkout / ".venv").exists()


def test_a_gpu_gets_the_other_onnx_runtime(make, checkout):
    names = installed(make(checkout, "venv", "DRY_RUN=1", "DEVICE=gpu")).keys()
    assert {"onnxruntime-gpu", "tensorrt", "torch", "pytest"} <= names
    assert "onnxruntime" not in names
    only_cpu = installed(make(checkout, "venv", "DRY_RUN=1")).keys() - names
    assert only_cpu == {"onnxruntime"}, "a GPU's environment lacks nothing else, HEIC for instance"
    assert "DEVICE is cpu or gpu, not tpu" in make(checkout, "venv", "DEVICE=tpu", returncode=2)


@pytest.fixture
def small(tmp_path, uv):
    """Return a folder like a checkout whose environment is empty, so that it is made in no time."""
    folder = tmp_path / "small"
    folder.mkdir()
    shutil.copy(ROOT / "Makefile", folder)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "rice-lib"\nversion = "0"\nrequires-python = ">=3.11"\n[tool.uv]\npackage = false\n'
    )
    subprocess.run([uv, "lock", "--offline", "--quiet", "--python", sys.executable], cwd=folder, check=True)
    return folder


def test_an_environment_is_made_once(make, small):
    assert "Installing" in make(small, "venv")
    assert "Installing" not in make(small, "venv")


def test_an_environment_is_made_again_where_the_project_moved(make, small):
    make(small, "venv")
    moved = small.rename(small.with_name("moved"))
    assert ".venv is left of" in make(moved, "venv")
    assert f"VIRTUAL_ENV={moved}" in (moved / ".venv" / "bin" / "activate").read_text().replace("'", "")
    assert "Installing" not in make(moved, "venv")


def test_an_environment_stays_what_it_was_made_as(make, small):
    """DEVICE, TORCH_INDEX and PYTHON need not be said again; another one makes .venv again."""
    stamp = small / ".venv" / ".installed"
    make(small, "venv")
    assert stamp.read_text().startswith(f"cpu pypi {sys.executable} ")
    assert "Installing" not in make(small, "venv", python=None)
    stamp.write_text(stamp.read_text().replace(" pypi ", " file:///wheels "))
    assert "is left of" not in make(small, "venv")
    assert "is left of" not in make(small, "venv", "TORCH_INDEX=file:///wheels")
    assert ".venv is left of" in make(small, "venv", "TORCH_INDEX=")


def test_an_interpreter_whose_path_has_a_space_makes_an_environment(make, small):
    spaced = small.rename(small.with_name("my rice"))
    python = spaced / "an interpreter" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", python.parents[1]], check=True)
    assert "Installing" in make(spaced, "venv", python=python)
    assert str(python) in (spaced / ".venv" / ".installed").read_text()
    assert "Installing" not in make(spaced, "venv", python=None)
    assert "Installing" not in make(spaced, "venv", python=python)


@pytest.mark.parametrize("left", [".venv/bin/python", ".venv/.installed"])
def test_an_environment_is_made_again_after_an_interruption(make, small, left):
    make(small, "venv")
    (small / left).unlink()
    assert ".venv is left of" in make(small, "venv")
    assert "Installing" not in make(small, "venv")


def test_an_environment_that_is_a_link_is_used_as_it_is(make, small, tmp_path):
    make(small, "venv")
    other = tmp_path / "other"
    shutil.copytree(small, other, ignore=shutil.ignore_patterns(".venv"))
    (other / ".venv").symlink_to(small / ".venv")
    os.utime(other / "uv.lock")
    assert "Installing" not in make(other, "venv")
    assert (small / ".venv" / ".installed").read_text().strip().endswith(str(small))


@pytest.mark.parametrize(("user", "option"), [("0", "<--allow-root>"), ("1000", "")])
def test_lab_starts_as_root_too_and_takes_arguments(make, small, user, option):
    """JupyterLab does not start as root without being asked to, and many containers have no other user."""
    (small / "own/bin").mkdir(parents=True)
    for name, line in (("python", ""), ("jupyter", 'printf "<%s>" "$@"'), ("id", f"echo {user}")):
        (small / "own/bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (small / "own/bin" / name).chmod(0o755)
    for environment in (".venv", ".venv-serve"):
        (small / environment).symlink_to("own")
    assert f"<lab><notebooks>{option}<--port><8890>" in make(small, "lab", "ARGS=--port 8890")


def test_values_of_set_reach_the_command_as_they_are(make, small, monkeypatch):
    monkeypatch.setenv("PYTHONOPTIMIZE", "2")
    (small / "own/bin").mkdir(parents=True)
    (small / "own/bin/python").write_text('#!/bin/sh\nprintf "<%s>" "$@" "$PYTHONOPTIMIZE"\n')
    (small / "own/bin/python").chmod(0o755)
    (small / ".venv").symlink_to("own")
    printed = make(small, "set", """SET=data.path='/My Reis #1 (a)/x&y;z|é.zip' seed=1 a.b="it's\"""")
    assert "<--profile><smoke><data.path=/My Reis #1 (a)/x&y;z|é.zip><seed=1><a.b=it's><>" in printed


@pytest.mark.parametrize("known", [True, False])
def test_dvc_does_without_git_where_git_does_not_know_the_project(make, small, known):
    """An archive may be unpacked inside a repository that ignores it: DVC then takes its own files for ignored."""
    (small / "own/bin").mkdir(parents=True)
    for name, line in (("python", ""), ("dvc", 'echo "dvc $@"')):
        (small / "own/bin" / name).write_text(f"#!/bin/sh\n{line}\n")
        (small / "own/bin" / name).chmod(0o755)
    (small / ".venv").symlink_to("own")
    (small / ".dvc").mkdir()
    (small / "dvc.yaml").touch()
    (small.parent / ".gitignore").write_text("" if known else "small\n")
    for command in (["init", "--quiet"], ["add", "."]):
        subprocess.run(["git", *command], cwd=small.parent, check=True)
    assert ("dvc config --local core.no_scm true" in make(small, ".dvc/scm-checked")) is not known


def test_both_environments_decode_and_compute_with_the_same_versions():
    lines = (ROOT / "requirements-serve.lock").read_text().splitlines()
    for name in ("onnxruntime", "pillow", "tritonclient"):
        assert f"{name}=={locked(name)}" in lines


def normalized(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def imported():
    """Return the top-level modules that the library, the tests, the benchmarks and the notebooks import."""
    files = [file for folder in ("src", "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    texts = [file.read_text() for file in files]
    for file in (ROOT / "notebooks").rglob("*.ipynb"):
        texts += [cell.source for cell in nbformat.read(file, as_version=4).cells if cell.cell_type == "code"]
    found = set()
    for text in texts:
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.add(node.value.partition(".")[0])  # importlib.import_module, pytest.importorskip
    return found


COMMANDS_AND_PLUGINS = {
    "accelerate": "transformers' Trainer",
    "check-jsonschema": "command",
    "cuda-bindings": "GPU alone",
    "dvc": "command",
    "ipykernel": "the kernel of the notebooks",
    "jupyterlab": "command",
    "mypy": "command",
    "onnxruntime-gpu": "GPU alone",
    "onnxscript": "torch.onnx.export",
    "ruff": "command",
    "tensorrt": "GPU alone",
    "types-pyyaml": "mypy",
    "types-tqdm": "mypy",
}


def test_every_dependency_is_used():
    wanted = [*PROJECT["project"]["dependencies"], *chain(*PROJECT["project"]["optional-dependencies"].values())]
    names = {normalized(re.match(r"[\w.-]+", requirement)[0]) for requirement in wanted}
    modules = imported()
    used = {
        normalized(distribution)
        for module, distributions in packages_distributions().items()
        if module in modules
        for distribution in distributions
    }
    assert names - used - COMMANDS_AND_PLUGINS.keys() - {"tensorrt-rtx"} == set()


# What others expect to find


def schema_errors(file, schema):
    pytest.importorskip("check_jsonschema")
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, file],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("CITATION.cff", "vendor.citation-file-format"),
        (".github/workflows/ci.yml", "vendor.github-workflows"),
        (".github/workflows/pages.yml", "vendor.github-workflows"),
    ],
)
def test_is_valid(file, schema):
    assert schema_errors(file, schema) == ""


def test_an_invalid_citation_is_noticed(tmp_path):
    broken = tmp_path / "CITATION.cff"
    broken.write_text((ROOT / "CITATION.cff").read_text().replace("title:", "titel:", 1))
    assert "title" in schema_errors(broken, "vendor.citation-file-format")


def test_version_and_licence_are_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PROJECT["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["references"][0]["doi"] == "10.1016/j.compag.2021.106285"
    versions = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert versions[:2] == ["Unreleased", project["version"]]


def test_ci_runs_what_ci_runs_here_on_every_python():
    (job,) = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"].values()
    assert job["strategy"]["matrix"]["python"] == PYTHONS
    assert "bash .ci/run" in [step.get("run") for step in job["steps"]]
    prefix = "Programming Language :: Python :: "
    assert [name.removeprefix(prefix) for name in PROJECT["project"]["classifiers"] if prefix in name] == PYTHONS
    assert PROJECT["project"]["requires-python"] == ">=3.11,<3.14"


def test_pre_commit_checks_with_pinned_versions():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    revisions = {entry["repo"].rpartition("/")[2]: entry["rev"].removeprefix("v") for entry in repositories}
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", revision) for revision in revisions.values())
    assert revisions["ruff-pre-commit"] == locked("ruff")
    assert revisions["check-jsonschema"] == locked("check-jsonschema")


def test_the_devcontainer_makes_the_environment():
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert re.search(r"python:\d+-(3\.\d+)-", container["image"])[1] in PYTHONS
    assert container["postCreateCommand"].startswith("make venv")
    path = container["customizations"]["vscode"]["settings"]["python.defaultInterpreterPath"]
    assert path == "${containerWorkspaceFolder}/.venv/bin/python"
