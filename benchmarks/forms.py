"""Compare the forms of a model on labelled photographs: size, images/s in turn, labels changed, errors, rejections.

    python benchmarks/forms.py --images TEST --calibration TRAINING --output FILE.json

Both folders hold a folder a variety. Speed is processor time of one thread, which depends little on other work.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import add_number, parser, run
from tqdm import trange

from rice_lib.backends.checkpoint import read_decision
from rice_lib.backends.open import OPENVINO, default_model, open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.backends.vit import load_pixel_classifier
from rice_lib.common.errors import RiceError, run_command
from rice_lib.common.paths import find_root
from rice_lib.contract.decode import decode
from rice_lib.export.benchmark import Engine, openvino_obstacle, tensorrt_obstacle
from rice_lib.export.forms import REFERENCE, compare
from rice_lib.export.onnx import export, quantise
from rice_lib.models.vit import SHIPPED
from rice_lib.predict.inputs import expand

BATCHES = (1, 8, 32)
WARM_UP = 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns its exit status."""
    command = parser(__doc__, runs=12)
    command.add_argument("--calibration", type=Path, required=True, metavar="FOLDER", help="training images, for int8")
    add_number(command, "--calibration-files", 160, "photographs of it, evenly spaced")
    return run(command, argv, measure, describe)


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Write every form of the model that ships, and compare them: a row a form."""
    if arguments.images is None:
        raise RiceError("--images: labelled photographs are wanted, in a folder a variety")
    truth_of, pixels = _read(arguments.images, arguments.files)
    calibration = _read(arguments.calibration, arguments.calibration_files)[1]
    forms = _write_forms(folder, calibration)
    missing = {form.name: form.obstacle for form in forms if form.obstacle}
    models = {form.name: open_predictor(form.spec, threads=1) for form in forms if not form.obstacle}
    labels = models[REFERENCE].labels
    if not set(truth_of) <= set(labels):
        raise RiceError(f"{arguments.images}: its folders are not named as the varieties of the model")
    truth = np.array([labels.index(name) for name in truth_of])
    logits = {name: np.concatenate([model.logits(part) for part in _eights(pixels)]) for name, model in models.items()}
    rates = _rates(models, pixels, arguments.runs)
    rows = []
    sizes = {form.name: form.size_mb for form in forms}
    for name, found in logits.items():
        kept = compare(found, logits[REFERENCE], truth, pixels, models[REFERENCE].decision)
        own = {"form": name, "mb": sizes[name], "images_per_s": rates[name]}
        rows.append({**own, **vars(kept), "offered": kept.offered})
    if obstacle := tensorrt_obstacle():
        missing["tensorrt"] = obstacle
    return {"images": len(pixels), "calibration_images": len(calibration), "forms": rows, "not_measured": missing}


def _read(folder: Path, count: int) -> tuple[list[str], np.ndarray]:
    """Decode labelled photographs, evenly spaced: the names of their folders, and uint8 `[n, 224, 224, 3]`."""
    files = [Path(name) for name in expand([str(folder)]) if isinstance(name, str)]
    files = files[:: max(1, len(files) // count)][:count]
    return [file.parent.name for file in files], np.stack([decode(file) for file in files])


def _write_forms(folder: Path, calibration: np.ndarray) -> list[Engine]:
    """Write the forms of the model that ships."""
    float32, half = default_model(), folder / "model_fp16.onnx"
    checkpoint = find_root() / SHIPPED
    classifier = load_pixel_classifier(checkpoint)
    decision = read_decision(checkpoint, classifier.labels)
    export(classifier, half, precision="float16", labels=classifier.labels, decision=decision)
    int8 = quantise(float32, folder / "model_int8.onnx", calibration)
    obstacle = openvino_obstacle()
    return [
        Engine(REFERENCE, str(float32)),
        Engine("onnx_float16", str(half), "float16"),
        Engine("onnx_int8", str(int8), "int8"),
        Engine("openvino_float32", f"{OPENVINO}{float32}", obstacle=obstacle),
        Engine("openvino_int8", f"{OPENVINO}{int8}", "int8", obstacle=obstacle),
    ]


def _eights(pixels: np.ndarray) -> list[np.ndarray]:
    return np.array_split(pixels, -(-len(pixels) // 8))


def _rates(models: Mapping[str, Predictor], pixels: np.ndarray, runs: int) -> dict[str, dict[str, float]]:
    """Median images per second of processor time, all models in turn: form to batch size to rate."""
    seconds: dict[tuple[str, int], list[float]] = {(name, batch): [] for name in models for batch in BATCHES}
    for number in trange(WARM_UP + runs, desc="rounds", leave=False):
        for (name, batch), each in seconds.items():
            begun = time.process_time()
            models[name]._forward(pixels[:batch])  # not `logits`, which cuts a large batch for several cores
            if number >= WARM_UP:
                each.append(time.process_time() - begun)
    return {name: {f"{b}": b / float(np.median(seconds[name, b])) for b in BATCHES} for name in models}


def describe(found: dict[str, Any]) -> str:
    """Write the measurement as a table for people."""
    rows = [
        {
            "form": row["form"], "MB": f"{row['mb']:.2f}",
            **{f"images/s at {batch}": f"{rate:.0f}" for batch, rate in row["images_per_s"].items()},
            "changed": row["changed"], "errors": row["errors"],
            "rejections agreed": "" if row["rejections_equal"] is None else f"{row['rejections_equal']:.2%}",
            "offered": "yes" if row["offered"] else "no",
        }
        for row in found["forms"]
    ]  # fmt: skip
    missing = [f"{name}: not measured here: {why}" for name, why in found["not_measured"].items()]
    return "\n".join([f"{found['images']} images", pd.DataFrame(rows).to_string(index=False), *missing])


if __name__ == "__main__":
    run_command(main)
