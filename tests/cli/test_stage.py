"""Running a notebook: what is passed to it, where it ends up, and what is said when a cell fails."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from rice_lib.cli import stage
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import load_params
from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.data import manifest

ROOT = Path(__file__).parents[2]
PARAMETERS = 'profile = "smoke"\nseed = None\nfinetune = None'


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """A checkout with one notebook to fill."""
    shutil.copytree(ROOT / "params", tmp_path / "params")
    (tmp_path / "notebooks").mkdir()
    monkeypatch.setenv("RICE_ROOT", str(tmp_path))
    return tmp_path


def write(checkout: Path, *sources: str, name: str = "05_export") -> None:
    cells = [new_markdown_cell("# 05 Export"), new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]})]
    cells += [new_code_cell(source) for source in sources]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": kernel}), checkout / f"notebooks/{name}.ipynb")


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "rice_lib", "stage", *arguments]
    return subprocess.run(
        command, env={**os.environ, **variables}, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_parameters_are_the_sections_of_the_profile_as_written():
    passed = stage.notebook_parameters(load_params("tiny", {"finetune": {"epochs": 1}}))
    assert passed["data"] == {"source": "synthetic", "per_class": 40}
    assert passed["finetune"]["epochs"] == 1
    assert passed["tracking"] == {}


@pytest.mark.slow
def test_runs_from_the_root_with_this_interpreter_and_the_parameters(checkout, tmp_path_factory):
    write(
        checkout,
        "import json, os, sys\n"
        "seen = [sys.executable, os.getcwd(), profile, seed, finetune['epochs']]\n"
        "open('seen.json', 'w').write(json.dumps(seen))",
    )
    # a kernelspec of the user's own, which would start something else
    home = tmp_path_factory.mktemp("home")
    kernel = home / ".local/share/jupyter/kernels/python3/kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "other", "language": "python"}))
    done = run("05_export", "--profile", "tiny", "--set", "finetune.epochs=7", HOME=str(home))
    assert done.returncode == 0, done.stderr
    seen = json.loads((checkout / "seen.json").read_text())
    assert seen == [sys.executable, str(checkout), "tiny", 83, 7]
    executed = nbformat.read(Paths(checkout, "tiny").notebook("05_export"), as_version=4)
    assert executed.cells[-1].execution_count


@pytest.mark.slow
def test_a_failing_cell_shows_traceback_notebook_and_how_to_resume(checkout):
    write(checkout, "fine = 1", "fine / 0", "never = 1")
    done = run("05_export", "--profile", "tiny")
    assert done.returncode == 1
    assert "ZeroDivisionError: division by zero" in done.stderr
    assert "fine / 0" in done.stderr
    assert "\x1b[" not in done.stderr, "no colours where there is no terminal"
    assert "error: 05_export failed: cell In [4]: division by zero" in done.stderr
    assert "reports/tiny/notebooks/05_export.ipynb" in done.stderr
    assert "make report PROFILE=tiny" in done.stderr
    executed = nbformat.read(Paths(checkout, "tiny").notebook("05_export"), as_version=4)
    assert [cell.source for cell in executed.cells if any(o.output_type == "error" for o in cell.get("outputs", []))]
    assert [file.name for file in (checkout / "reports/tiny/notebooks").iterdir()] == ["05_export.ipynb"]


@pytest.mark.slow
def test_wrong_input_of_a_cell_is_said_without_a_traceback(checkout):
    write(checkout, "from rice_lib.common.errors import RiceError", "raise RiceError('/nowhere: no such folder')")
    done = run("05_export", "--profile", "tiny")
    assert done.returncode == 1
    assert "error: 05_export failed: cell In [4]: /nowhere: no such folder\n" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_a_killed_kernel_is_one_line(checkout):
    write(checkout, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    done = run("05_export", "--profile", "tiny")
    assert done.returncode == 1
    assert "error: 05_export failed: its kernel died" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["05_exprt", "--profile", "tiny"], "05_exprt: no such notebook; known: 01_eda"),
        (["05_export", "--profile", "tinny"], "no such profile; did you mean tiny"),
        (["05_export", "--profile", "tiny", "--set", "export.opsett=17"], "did you mean opset"),
        (["05_export", "--profile", "tiny"], "05_export.ipynb: missing from the checkout"),
    ],
)
def test_wrong_input_is_one_line_and_starts_nothing(checkout, arguments, said):
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (checkout / "reports").exists()


def test_a_section_that_the_notebook_does_not_read_is_one_line(checkout):
    write(checkout)
    with pytest.raises(RiceError, match=r"--set baseline: 05_export does not read it; it reads finetune, seed$"):
        stage.run_stage("05_export", "tiny", {"baseline": {"batch_size": 8}})
    assert not (checkout / "reports").exists()


@pytest.fixture
def pulled(checkout):
    """A checkout as `dvc pull` leaves it: images and manifest, no pixel cache."""
    opened = Run.open("tiny", data={"source": "synthetic", "per_class": 2})
    manifest.build(opened)
    before = np.load(opened.paths.cache / "pixels.npy").copy()
    shutil.rmtree(opened.paths.cache)
    return opened, before


def test_pixels_are_decoded_again_where_only_the_images_were_pulled(pulled):
    opened, before = pulled
    assert manifest.restore(opened)
    assert np.array_equal(np.load(opened.paths.cache / "pixels.npy"), before)
    assert manifest.restore(opened) is False, "nothing to do the second time"


def test_pixels_are_not_made_of_other_images(pulled):
    opened, _ = pulled
    table = pd.read_csv(opened.paths.manifest)
    first, second = (opened.paths.images / path for path in table["path"][:2])
    shutil.copy(second, first)
    with pytest.raises(RiceError, match=r"not the image in manifest\.csv"):
        manifest.restore(opened)
    assert not (opened.paths.cache / "pixels.npy").exists()


def test_a_study_runs_nothing_where_the_profile_does_not_enable_it(checkout, capsys):
    study = "studies/05_leakage"
    (checkout / "notebooks/studies").mkdir()
    write(checkout, name=study)
    assert stage.main([study, "--profile", "tiny"]) == 0
    assert "not run; the profile has study.enabled: false" in capsys.readouterr().out
    output = stage.run_stage(study, "tiny")
    assert output == Paths(checkout, "tiny").notebook(study)
    assert list(output.parent.iterdir()) == []
    assert (checkout / "reports/tiny/figures" / study).is_dir()
    (checkout / "notebooks" / f"{study}.ipynb").unlink()
    with pytest.raises(RiceError, match="missing from the checkout"):
        stage.run_stage(study, "tiny", {"study": {"enabled": True}})
