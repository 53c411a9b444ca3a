"""The script of several seeds: each training is its own, and leaves the run as it was."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import seeds

from rice_lib.common.paths import Paths
from rice_lib.common.run import Run
from rice_lib.data import manifest, split

SETTINGS = {
    "data": {"per_class": 12},
    "finetune": {"architecture": {"hidden_size": 16, "layers": 1, "heads": 1}, "batch_size": 8},
}


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Have the script open a run with data and splits in a root of its own; returns that root."""
    first = Run(Run.open("tiny", **SETTINGS).params, Paths(tmp_path, "tiny"))
    manifest.build(first)
    split.make(first)

    def reopen(profile, seed, finetune):
        settings = first.params.finetune.model_copy(update=finetune)
        return Run(first.params.model_copy(update={"seed": seed, "finetune": settings}), first.paths)

    monkeypatch.setattr(seeds.Run, "open", staticmethod(reopen))
    return tmp_path


def files(root: Path) -> set[Path]:
    return {file.relative_to(root) for file in root.rglob("*") if file.is_file()}


@pytest.mark.slow  # four trainings
def test_seeds_differ_repeat_and_leave_the_run_as_it_was(opened, tmp_path_factory):
    before = files(opened)
    output = tmp_path_factory.mktemp("out") / "seeds.json"
    arguments = ["--profile", "tiny", "--scheme", "random", "--epochs", "3", "--seeds", "3", "--output", str(output)]
    assert seeds.main(arguments) == 0
    found = json.loads(output.read_text())
    rows, accuracy = found["seeds"], found["metrics"]["accuracy"]
    assert [row["seed"] for row in rows] == [0, 1, 2]
    values = [row["accuracy"] for row in rows]
    assert accuracy["low"] == min(values)
    assert accuracy["high"] == max(values)
    assert accuracy["n"] == 3
    assert len(set(values)) > 1
    assert seeds.main([*arguments, "--seeds", "1"]) == 0
    assert json.loads(output.read_text())["seeds"] == rows[:1]
    assert files(opened) == before
