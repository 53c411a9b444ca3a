"""`rice train`: one process or several leave what notebook 04 takes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from rice_lib.cli import train as command
from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json
from rice_lib.common.paths import Paths, find_root
from rice_lib.common.run import Run
from rice_lib.data import manifest, split
from rice_lib.models import finetune
from rice_lib.models.finetune import training_arguments, training_folder

SETTINGS = ("data.per_class=12", "finetune.epochs=1", "finetune.batch_size=8")


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A small run with data and splits made, in a root of its own."""
    (tmp_path / "notebooks").mkdir()
    shutil.copytree(find_root() / "params", tmp_path / "params")
    monkeypatch.setenv("RICE_ROOT", str(tmp_path))
    opened = Run.open("tiny", data={"per_class": 12}, finetune={"epochs": 1, "batch_size": 8})
    made = Run(opened.params, Paths(tmp_path, "tiny"))
    manifest.build(made)
    split.make(made)
    return made


def test_processes_share_out_the_batch(run, monkeypatch):
    monkeypatch.setattr(finetune, "TrainingArguments", SimpleNamespace)  # it would wait for 4
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert training_arguments(run, "random").per_device_train_batch_size == 2
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(RiceError, match="batch_size=8: does not divide among 3 processes"):
        training_arguments(run, "random")


def test_the_command_names_its_splits(capsys):
    with pytest.raises(SystemExit):
        command.main(["nothing"])
    assert "random" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_train_one_model_and_the_notebook_finds_it(run):
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "-m", "rice_lib"]
    line += ["train", "random", "--profile", "tiny", *(f"--set={each}" for each in SETTINGS)]
    source = Path(command.__file__).parents[2]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(source)}
    done = subprocess.run(line, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("models/tiny/vit/random: ") == 1
    assert "2 processes" in done.stdout
    facts = read_json(run.paths.checkpoint("random") / "provenance.json")
    images = sum(1 for line in run.paths.split("random").read_text().splitlines() if line.endswith(",train"))
    assert facts["best_step"] == -(-images // 8), "a step is a batch of both"
    assert (training_folder(run, "random") / "finished").is_dir()
