"""`rice evaluate`: its table, its JSON, the comparison of two models."""

import json
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from rice_lib.cli import evaluate
from rice_lib.cli.evaluate import main
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import APPEARANCE, Cluster, Decision, RejectionRule
from rice_lib.data.loading import Examples
from rice_lib.data.synthetic import VARIETIES


class _Predictor:
    """Predicts the variety that the first pixel's red names; its labels come in another order."""

    labels = tuple(reversed(VARIETIES))
    name = "fake"
    decision: Decision = Decision()

    def __enter__(self) -> "_Predictor":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        return 10 * np.eye(5, dtype=np.float32)[4 - pixels[:, 0, 0, 0]]


@pytest.fixture
def command(monkeypatch):
    """The command on 21 images of 4 x 4 pixels, the first of them misclassified."""
    labels = np.arange(21) % 5
    pixels = np.zeros((21, 4, 4, 3), np.uint8)
    pixels[:, 0, 0, 0] = np.where(np.arange(21) == 0, 3, labels)
    examples = Examples(pixels, np.arange(21), labels, [f"{i}.jpg" for i in range(21)], VARIETIES)
    monkeypatch.setattr(evaluate, "open_examples", lambda paths, scheme, part: examples)
    monkeypatch.setattr(evaluate, "open_predictor", lambda spec: _Predictor())
    return main


def test_command_prints_a_table_and_writes_json(command, capsys, tmp_path) -> None:
    output, predictions = tmp_path / "f.json", tmp_path / "p.csv"
    arguments = ["--model", "m", "--profile", "tiny", "--batch-size", "4"]
    assert command([*arguments, "--output", str(output), "--predictions", str(predictions)]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"accuracy +0\.95238 +0\.\d{5} - 0\.\d{5} +21\n", printed)
    assert re.search(r"Arborio +4 +0 +0 +1 +0\n", printed)
    assert "split test" in printed
    assert "ece " in printed
    assert "the model carries no rejection rule" in printed
    found = json.loads(output.read_text())
    assert found["metrics"]["errors"]["value"] == 1
    assert np.array(found["confusion"]["counts"])[0, 3] == 1
    assert pd.read_csv(predictions)["predicted"][0] == "Jasmine"


def test_command_compares_two_models_on_the_same_images(command, capsys, tmp_path, monkeypatch) -> None:
    class Other(_Predictor):
        """Misclassifies all of Basmati."""

        def logits(self, pixels: np.ndarray) -> np.ndarray:
            return super().logits(np.where(pixels == 1, 2, pixels))

    monkeypatch.setattr(evaluate, "open_predictor", lambda spec: Other() if spec == "other" else _Predictor())
    output = tmp_path / "f.json"
    assert command(["--model", "m", "--against", "other", "--profile", "tiny", "--output", str(output)]) == 0
    against = json.loads(output.read_text())["against"]
    # both are wrong on image 0; the other on Basmati's four besides
    assert (against["errors"], against["only_a_wrong"], against["only_b_wrong"]) == (5, 0, 4)
    assert against["p_value"] == pytest.approx(2 / 2**4)
    assert "only the other on 4; McNemar's exact p = 0.125" in capsys.readouterr().out


def test_command_applies_the_models_decision(command, capsys, tmp_path, monkeypatch) -> None:
    # the rule takes the logits in the model's own order, and 4 x 4 pixels hold no grain
    cluster = Cluster(np.zeros(len(APPEARANCE)), np.eye(len(APPEARANCE)))
    limits = {"area": (0.1, 1.0), "rim": (0.0, 1.0), "objects": (1.0, 1.0), "solidity": (0.0, 1.0), "fill": (0.0, 1.0)}
    decision = Decision(2.0, RejectionRule(limits, [[cluster]] * 5, 1.0))
    monkeypatch.setattr(_Predictor, "decision", decision)
    output = tmp_path / "f.json"
    assert command(["--model", "m", "--profile", "tiny", "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    assert found["metrics"]["rejected"]["value"] == 1
    calibrated = float(np.exp(5) / (np.exp(5) + 4))  # 10 / 2
    # 20 of 21 correct, all predicted with that confidence
    assert found["metrics"]["ece"]["value"] == pytest.approx(abs(20 / 21 - calibrated), abs=1e-6)
    assert "rejected" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("option", "value", "known"),
    [("--split", "tset", ("train", "validation", "test")), ("--scheme", "group", ("random", "session"))],
)
def test_an_unknown_split_is_an_error(option: str, value: str, known: tuple[str, ...], capsys) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--model", "m.onnx", option, value])
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert value in said
    assert all(name in said for name in known)


def test_a_model_of_other_labels_is_an_error(command, monkeypatch) -> None:
    monkeypatch.setattr(_Predictor, "labels", ("cat", "dog"))
    with pytest.raises(RiceError, match="cat, dog"):
        command(["--model", "m", "--profile", "tiny"])


def test_an_unknown_model_is_one_line() -> None:
    process = subprocess.run(
        [sys.executable, "-m", "rice_lib", "evaluate", "--model", "/nowhere/model.onnx", "--profile", "tiny"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 2
    assert process.stderr.count("\n") == 1
    assert process.stderr.startswith("error: /nowhere/model.onnx")
