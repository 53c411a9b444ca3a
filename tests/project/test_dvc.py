"""The stages of dvc.yaml: what they depend on, and what a change runs again (the real dvc, stand-in notebooks)."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import yaml
from support.imports import closure, imported, room_of
from support.programs import write_program

from rice_lib.common.parameters import Params
from rice_lib.common.paths import NOTEBOOKS, STUDIES, Paths
from rice_lib.report.check import outdated
from rice_lib.report.results import STAGES

ROOT = Path(__file__).parents[2]
PIPELINE = yaml.safe_load((ROOT / "dvc.yaml").read_text())
PROFILES = yaml.safe_load((ROOT / "profiles.yaml").read_text())["profiles"]
DRAWS_ONLY = {"04_vit_finetune": "report"}
"""A room that a stage need not depend on: a chart's colour must not train again."""


def stage_of(notebook: str, profile: str = "smoke") -> dict:
    """A stage as DVC resolves it for a profile."""
    text = json.dumps(PIPELINE["stages"][STAGES.get(notebook, "study")])
    study = notebook.removeprefix("studies/")
    return json.loads(text.replace("${item.profile}", profile).replace("${item.study}", study))


def code_of(notebook: str) -> str:
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    return "\n".join(cell.source for cell in cells if cell.cell_type == "code")


def parameters_of(stage: dict) -> set[str]:
    return {key.split(".")[0] for file in stage["params"] for keys in file.values() for key in keys}


def outputs_of(stage: dict) -> list[str]:
    listed = [*stage.get("outs", []), *stage.get("metrics", [])]
    return [next(iter(out)) if isinstance(out, dict) else out for out in listed]


def rooms_of(stage: dict) -> set[str]:
    return {dep.removeprefix("src/rice_lib/") for dep in stage["deps"] if dep.startswith("src/rice_lib/")}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_a_stage_depends_on_the_rooms_that_its_notebook_reaches(notebook):
    reached = closure(imported(code_of(notebook)), spared_room=DRAWS_ONLY.get(notebook, ""))
    assert rooms_of(stage_of(notebook)) == {room_of(module) for module in reached} - {""}
    assert f"notebooks/{notebook}.ipynb" in stage_of(notebook)["deps"]


def test_the_studies_depend_on_the_rooms_that_they_reach_together():
    assert [f"studies/{name}" for name in PIPELINE["stages"]["study"]["matrix"]["study"]] == list(STUDIES)
    reached = closure({module for study in STUDIES for module in imported(code_of(study))})
    for study in STUDIES:
        assert rooms_of(stage_of(study)) == {room_of(module) for module in reached} - {""}
        assert f"notebooks/{study}.ipynb" in stage_of(study)["deps"]
        read = set(re.findall(r"\bparams\.(\w+)", code_of(study))) & set(Params.model_fields)
        assert read <= parameters_of(stage_of(study))


def test_what_a_study_writes_is_an_output_and_the_report_depends_on_it():
    paths = Paths(ROOT, "smoke")
    report = json.dumps(PIPELINE["stages"]["report"]["deps"]).replace("${item.profile}", "smoke")
    for study in STUDIES:
        folders = [paths.relative(paths.notebook(study).parent), paths.relative(paths.figure(study, "any").parent)]
        assert paths.metrics(study).parent == paths.notebook(study).parent
        assert outputs_of(stage_of(study)) == folders
        assert set(folders) <= set(json.loads(report))


def test_an_edit_of_a_room_runs_no_more_than_its_stages():
    users = {
        room: [notebook for notebook in NOTEBOOKS if room in rooms_of(stage_of(notebook))]
        for room in ("serving", "export", "explain", "report")
    }
    assert users["serving"] == ["07_triton_smoke"]
    assert users["export"] == ["05_export", "06_trt_benchmark", "07_triton_smoke"]
    assert users["explain"] == ["04_vit_finetune"]
    assert "04_vit_finetune" not in users["report"]


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_declared_dependencies_in_the_checkout_exist(notebook):
    inside = [dep for dep in stage_of(notebook)["deps"] if not dep.startswith(("data/", "models/", "reports/"))]
    assert [dep for dep in inside if not (ROOT / dep).exists()] == []


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_parameters_cover_what_the_notebook_reads(notebook):
    read = set(re.findall(r"\bparams\.(\w+)", code_of(notebook))) & set(Params.model_fields) - {"profile"}
    in_the_files_it_depends_on = {"data", "split"} if notebook not in ("01_eda", "02_split") else set()
    assert read - in_the_files_it_depends_on <= parameters_of(stage_of(notebook))


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_executed_notebook_and_metrics_are_outputs(notebook):
    paths = Paths(ROOT, "smoke")
    outputs = outputs_of(stage_of(notebook))
    assert paths.relative(paths.notebook(notebook)) in outputs
    assert stage_of(notebook)["metrics"] == [paths.relative(paths.metrics(notebook))]
    shown = [paths.relative(paths.notebook(notebook)), paths.relative(paths.metrics(notebook))]
    report = PIPELINE["stages"]["report"]["deps"]
    assert {path.replace("smoke", "${item.profile}", 1) for path in shown} <= {*report}


def test_predictions_that_a_later_notebook_reads_are_outputs_and_its_dependencies():
    paths = Paths(ROOT, "smoke")
    for model, notebook in (("cnn", "03_baseline"), ("shape", "03_baseline"), ("vit", "04_vit_finetune")):
        folder = paths.relative(paths.predictions(model, "random").parent)
        assert folder in outputs_of(stage_of(notebook))
        if model != "vit":
            assert folder in stage_of("04_vit_finetune")["deps"]


def test_resumable_training_and_pixel_cache_are_no_outputs():
    paths = Paths(ROOT, "smoke")
    outputs = [ROOT / out for notebook in NOTEBOOKS for out in outputs_of(stage_of(notebook))]
    for kept in (paths.training, paths.cache, paths.engines, paths.mlruns):
        assert not any(kept == out or out in kept.parents for out in outputs), kept


def test_every_profile_has_its_stages():
    assert PIPELINE["vars"] == ["profiles.yaml"]
    assert set(PROFILES) == {file.stem for file in (ROOT / "params").glob("*.yaml")}


@pytest.mark.parametrize("profile", PROFILES)
def test_profiles_hold_the_sections_that_stages_track(profile):
    values = yaml.safe_load((ROOT / "params" / f"{profile}.yaml").read_text())
    tracked = {key for notebook in (*NOTEBOOKS, *STUDIES) for key in parameters_of(stage_of(notebook))}
    assert tracked <= set(values), "DVC does not track a section that a profile leaves out; an empty one is {}"


# A stand-in for `python`: writes what the stage declares, from the stage's inputs, and notes that it ran.
STAND_IN = """
import hashlib, json, pathlib, sys
name = sys.argv[4] if sys.argv[3] == "stage" else "report"
with open("ran.txt", "a") as log:
    log.write(name + "\\n")
if pathlib.Path("fail.txt").exists() and pathlib.Path("fail.txt").read_text() == name:
    sys.exit(1)
stage = json.loads(pathlib.Path("stages.json").read_text())[name]
digest = hashlib.sha256(b"".join(pathlib.Path(dep).read_bytes() for dep in stage["reads"])).hexdigest()
for out in stage["outs"]:
    file = pathlib.Path(out)
    if not file.suffix:
        file.mkdir(parents=True, exist_ok=True)
        file = file / "content"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(digest)
"""


class Checkout:
    """A copy of what dvc needs, in which stages are stood in for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("params", "notebooks", "src", "serving", "docs", "data/samples"):
            shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__"))
        (root / ".dvc").mkdir()
        (root / "reports").mkdir()
        for name in (
            "dvc.yaml",
            "profiles.yaml",
            "_quarto.yml",
            "reports/index.qmd",
            "reports/styles.css",
            ".dvcignore",
        ):
            shutil.copy(ROOT / name, root / name)
        config = (ROOT / ".dvc/config").read_text()
        (root / ".dvc/config").write_text(config.replace("[core]\n", "[core]\n    no_scm = true\n"))
        stages = {}
        for notebook in (*NOTEBOOKS, *STUDIES, "report"):
            if notebook == "report":
                stage = json.loads(json.dumps(PIPELINE["stages"]["report"]).replace("${item.profile}", "tiny"))
            else:
                stage = stage_of(notebook, "tiny")
            # enough to make the outputs change when an input does
            made = [dep for dep in stage["deps"] if dep.startswith(("data/tiny/", "models/", "reports/tiny/"))]
            reads = [f"notebooks/{notebook}.ipynb"] if notebook != "report" else []
            reads += [dep if Path(dep).suffix else f"{dep}/content" for dep in made]
            reads += ["params/tiny.yaml"] if notebook == "04_vit_finetune" else []
            stages[notebook] = {"outs": outputs_of(stage), "reads": reads}
        (root / "stages.json").write_text(json.dumps(stages))
        python = root / "bin/python"
        python.parent.mkdir()
        write_program(python, STAND_IN)

    def dvc(self, *arguments: str, status: int = 0) -> str:
        environment = {**os.environ, "PATH": f"{self.root / 'bin'}:{os.environ['PATH']}"}
        command = [str(Path(sys.executable).parent / "dvc"), *arguments]
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def repro(self, status: int = 0) -> list[str]:
        """Run the report of `tiny` as `make report` does; the stages that were executed, sorted."""
        log = self.root / "ran.txt"
        log.unlink(missing_ok=True)
        self.dvc("repro", "--pull", "report@tiny", status=status)
        return sorted(log.read_text().split()) if log.is_file() else []


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    return Checkout(tmp_path_factory.mktemp("checkout"))


@pytest.mark.slow
def test_what_runs_again(checkout):
    params = checkout.root / "params/tiny.yaml"
    text = params.read_text()
    assert checkout.repro() == sorted([*NOTEBOOKS, *STUDIES, "report"])
    assert checkout.repro() == []

    params.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 2.0e-3", text))
    assert checkout.repro() == [*NOTEBOOKS[3:], "report", *STUDIES], "from notebook 04 on, and nothing before it"

    params.write_text(text)
    assert checkout.repro() == [], "what had run before comes out of the cache"

    (checkout.root / "fail.txt").write_text("06_trt_benchmark")
    with (checkout.root / "notebooks/05_export.ipynb").open("a") as notebook:
        notebook.write("\n")
    before = set(checkout.repro(status=255))
    assert {"05_export", "06_trt_benchmark"} <= before <= {"05_export", "06_trt_benchmark", "07_triton_smoke"}
    (checkout.root / "fail.txt").unlink()
    # 06 and 07 depend on 05 alone, so either may come first
    left = {"06_trt_benchmark", "07_triton_smoke", "report"} - (before - {"06_trt_benchmark"})
    assert set(checkout.repro()) == left, "it resumes where it stopped"


@pytest.mark.slow
def test_a_check_names_the_code_data_and_parameters_that_changed(checkout):
    checkout.repro()
    paths = Paths(checkout.root, "tiny")
    assert outdated(paths) == []

    params = checkout.root / "params/tiny.yaml"
    text = params.read_text()
    params.write_text(re.sub(r"learning_rate: \S+", "learning_rate: 3.0e-3", text))
    (found,) = outdated(paths)
    assert found == "04_vit_finetune: parameters changed: finetune"

    params.write_text(text)
    code, data = checkout.root / "src/rice_lib/explain/deletion.py", checkout.root / "data/tiny/manifest.csv"
    before = [file.read_text() for file in (code, data)]
    code.write_text(before[0] + "\n")
    data.write_text(before[1] + "\n")
    found = {line.partition(":")[0]: line for line in outdated(paths)}
    assert found["01_eda"] == "01_eda: outputs changed: data/tiny/manifest.csv"
    assert found["03_baseline"] == "03_baseline: data changed: data/tiny/manifest.csv"
    changed = "code changed: src/rice_lib/explain; data changed: data/tiny/manifest.csv"
    assert found["04_vit_finetune"] == f"04_vit_finetune: {changed}"
    for file, content in zip((code, data), before, strict=True):
        file.write_text(content)
    assert outdated(paths) == []


@pytest.mark.slow
def test_missing_data_and_models_are_pulled_before_they_are_made(checkout):
    checkout.repro()
    checkout.dvc("push", "--run-cache")
    for made in ("data", "models", ".dvc/cache", "reports/tiny"):
        shutil.rmtree(checkout.root / made)
    assert checkout.repro() == []
    assert (checkout.root / "models/tiny/vit/content").is_file()
    assert (checkout.root / "reports/tiny/site/content").is_file()
