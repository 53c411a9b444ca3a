"""Many photographs: images per second of the whole command, of the model alone, and of the usual pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from models import Forms
from rice_lib.export.timing import Timing, in_turn, python, ratio

PIPELINE = "transformers.pipeline"
DENSE = "ONNX Runtime alone, dense"
FOREGROUND = "ONNX Runtime alone, foreground"
COMMAND = "rice infer, foreground"


def measure(forms: Forms, images: Sequence[Path], batch: int, runs: int, rival_share: int = 8) -> dict[str, Any]:
    """Images per second, in turn.

    Args:
        forms: the weights.
        images: photographs; the command and the foreground model tell all, the two slow rivals every `rival_share`-th
            (at least two batches).
        batch: images of one call.
        runs: counted runs of each.
    """
    few = images[:: min(rival_share, max(1, len(images) // (2 * batch)))]
    rivals = "rivals"
    timings = in_turn(
        {
            PIPELINE: python("-m", rivals, "pipeline", forms.transformers, batch, *few),
            DENSE: python("-m", rivals, "onnxruntime", forms.dense, batch, *few),
            FOREGROUND: python("-m", rivals, "onnxruntime", forms.foreground, batch, *images),
            COMMAND: python(
                "-m", "rice_lib.infer", *images, "--model", forms.foreground, "--batch-size", batch,
                "--format", "jsonl", "--output", "/dev/null",
            ),
        },
        runs,
    )  # fmt: skip
    rates = {
        PIPELINE: _rates(timings[PIPELINE], len(few)),
        DENSE: _rates(timings[DENSE], len(few)),
        FOREGROUND: _rates(timings[FOREGROUND], len(images)),
        # the command is taken whole: start-up, decoding and writing are its own affair
        COMMAND: [len(images) / seconds for seconds in timings[COMMAND].seconds],
    }
    return {
        "images": len(images),
        "rivals_images": len(few),
        "batch": batch,
        "images_per_s": rates,
        "command_to_pipeline": ratio(rates[COMMAND], rates[PIPELINE]),
        "foreground_to_dense": ratio(rates[FOREGROUND], rates[DENSE]),
        "command_to_model_alone": ratio(rates[COMMAND], rates[FOREGROUND]),
    }


def _rates(timing: Timing, images: int) -> list[float]:
    return [images / float(said) for said in timing.said]


def lines(found: dict[str, Any]) -> list[str]:
    """The measurement as a table for people."""
    told = [f"{'batch of ' + str(found['batch']):<36}{'images/s, median':>18}"]
    told += [f"{name:<36}{sorted(rates)[len(rates) // 2]:>18.0f}" for name, rates in found["images_per_s"].items()]
    told += [""]
    for name, words in (
        ("command_to_pipeline", "the whole command is faster than the pipeline, times"),
        ("foreground_to_dense", "the foreground model is faster than the dense one, times"),
        ("command_to_model_alone", "of the model's own rate the whole command keeps"),
    ):
        low, middle, high = found[name]
        told.append(f"{words:<60}{middle:.2f} ({low:.2f} to {high:.2f})")
    return told
