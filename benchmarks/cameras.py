"""Measure models on three kinds of test images: a random split, a session never seen, another camera (simulated);
and on the first two with one property changed at a time, as another distance, light, lens or file changes it.

    python benchmarks/cameras.py --model "ViT=a.onnx" --session-model "ViT=twin.onnx" --figure docs/findings.svg

The ten features are fitted here, with and without those of size, once on each split of a profile (notebooks 01 and 02
wrote them). A model of `--model` was trained on the random split, one of `--session-model` on the first session alone;
two of one name are one line of the figure. The camera photographs test images of the random split. Where a model
carries a rejection rule, the share that it rejects is measured too; a rejected image counts by its class all the same.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rice_lib.backends.open import open_predictor
from rice_lib.common.errors import run_command
from rice_lib.common.files import write_json
from rice_lib.common.run import Run
from rice_lib.common.tracking import Metric, provenance, share_of
from rice_lib.contract.prediction import feature_table
from rice_lib.data.camera import rephotograph
from rice_lib.data.loading import Examples, open_examples
from rice_lib.data.shape_features import FEATURE_NAMES, shape_features
from rice_lib.models.baseline import linear_classifier, thin
from rice_lib.models.metrics import classification_metrics, label_columns
from rice_lib.report import charts, style
from rice_lib.report.results import KINDS

SIZE = ("area", "major axis", "minor axis")
SPLITS = ("random", "session")
FEATURES = {"ten features": (), "without size": SIZE}
Classify = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""uint8 `[n, 224, 224, 3]` to class numbers, and whether each image is rejected, where there is a rule."""


def scaled(factor: float) -> Callable[[np.ndarray], np.ndarray]:
    """Enlarge about the middle; what is turned in from outside is black."""
    matrix = cv2.getRotationMatrix2D((111.5, 111.5), 0, factor)
    return lambda image: cv2.warpAffine(image, matrix, image.shape[:2], flags=cv2.INTER_LINEAR)


def gained(red: float, green: float, blue: float) -> Callable[[np.ndarray], np.ndarray]:
    """Multiply each channel."""
    return lambda image: np.rint(image * np.array([red, green, blue])).clip(0, 255).astype(np.uint8)


def noisy(deviation: float) -> Callable[[np.ndarray], np.ndarray]:
    """Add normal noise of that many grey levels, the same to every image."""
    noise = np.random.default_rng(0).normal(0, deviation, (224, 224, 3))
    return lambda image: np.rint(image + noise).clip(0, 255).astype(np.uint8)


def compressed(quality: int) -> Callable[[np.ndarray], np.ndarray]:
    """Save as JPEG and load."""
    return lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1], 1)


SHIFTS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "0.75 times the size": scaled(0.75),
    "1.3 times the size": scaled(1.3),
    "red x 0.85": gained(0.85, 1, 1),
    "blue x 0.78": gained(1, 1, 0.78),
    "light x 0.7": gained(0.7, 0.7, 0.7),
    "grey": lambda image: cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB),
    "blur of 1.5 px": lambda image: cv2.GaussianBlur(image, (0, 0), 1.5),
    "noise of 6 levels": noisy(6),
    "JPEG quality 40": compressed(40),
}
"""What becomes of an image, uint8 `[224, 224, 3]`."""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write and draw; returns the exit status."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--profile", default="scratch", help="whose images and splits (default: %(default)s)")
    models: dict[str, Any] = {"action": "append", "default": [], "metavar": "NAME=FILE"}
    command.add_argument("--model", help="trained on the random split; may be repeated", **models)
    command.add_argument("--session-model", help="trained on the first session alone; may be repeated", **models)
    command.add_argument("--images", type=int, default=1000, help="test images of each kind (default: %(default)s)")
    command.add_argument("--output", type=Path, help="JSON file to write")
    command.add_argument("--figure", type=Path, help="SVG file to draw")
    arguments = command.parse_args(argv)
    run = Run.open(arguments.profile)
    tests = {split: open_part(run, split, "test", arguments.images) for split in SPLITS}
    tests["camera"] = rephotograph(tests["random"], run.params.seed)
    tests |= {f"{of}, {name}": shifted(tests[of], change) for of in SPLITS for name, change in SHIFTS.items()}
    rows = [*features_rows(run, tests)]
    for split, models in {"random": arguments.model, "session": arguments.session_model}.items():
        rows += [row for model in models for row in model_rows(*model.split("=", 1), split, tests)]
    found: dict[str, dict[str, Metric]] = {}
    for name, kind, metrics in rows:
        if kind in KINDS:
            found.setdefault(name, {})[KINDS[kind]] = metrics["accuracy"]
        print(f"{name:<24} {kind:<30}", *(f"{key} {metric.value:.4f}" for key, metric in metrics.items()), flush=True)
    if arguments.output:
        measured = {
            f"{name}/{kind}/{k}": asdict(metric) for name, kind, metrics in rows for k, metric in metrics.items()
        }
        write_json(arguments.output, {"metrics": measured, "images": arguments.images, "provenance": provenance(run)})
    if arguments.figure:
        style.use_style()
        style.save(charts.slope(found, list(KINDS.values())), arguments.figure)
    return 0


Row = tuple[str, str, dict[str, Metric]]
"""A model's name, the kind of test images, and its accuracy, Jasmine's recall and the share rejected there."""


def open_part(run: Run, split: str, part: str, limit: int) -> Examples:
    """Open at most `limit` images of a part of a split, stratified."""
    return thin(open_examples(run.paths, split, part), limit, run.params.seed)


def shifted(test: Examples, change: Callable[[np.ndarray], np.ndarray]) -> Examples:
    """Change each image."""
    return replace(test, pixels=np.stack([change(test.pixels[row]) for row in test.rows]), rows=np.arange(len(test)))


def features_rows(run: Run, tests: dict[str, Examples]) -> Iterator[Row]:
    """Fit logistic regression on the features of each split's training images, and measure it."""
    for split in SPLITS:
        train = open_part(run, split, "train", 8 * len(tests[split]))
        values = shape_features(image for batch in train.batches(64) for image in batch)
        for name, left_out in FEATURES.items():
            columns = [number for number, feature in enumerate(FEATURE_NAMES) if feature not in left_out]
            classifier = linear_classifier().fit(values[:, columns], train.labels)
            yield from measure(
                name,
                split,
                tests,
                lambda images: (classifier.predict(shape_features(images)[:, columns]), None),  # noqa: B023
            )


def model_rows(name: str, file: str, split: str, tests: dict[str, Examples]) -> Iterator[Row]:
    """Measure a model that was trained on a split."""
    with open_predictor(file, threads=1) as predictor:
        columns = label_columns(predictor, tests[split].classes)
        rule = predictor.decision.rejection

        def classify(images: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
            logits = predictor.logits(images)
            reasons = rule.reasons(logits, feature_table(images)) if rule else None
            rejected = np.array([reason is not None for reason in reasons]) if reasons else None
            return logits[:, columns].argmax(1), rejected

        yield from measure(name, split, tests, classify)


def measure(name: str, split: str, tests: dict[str, Examples], classify: Classify) -> Iterator[Row]:
    """Measure on the test images of the split that it was trained on, as they are and under each shift; of the random
    split, on the other camera too."""
    for kind, test in tests.items():
        if kind.partition(",")[0] != split and (split, kind) != ("random", "camera"):
            continue
        predicted, rejected = zip(*(classify(images) for images in test.batches(32)), strict=True)
        metrics = classification_metrics(test.labels, np.concatenate(predicted), test.classes, 0)
        found = {key: metrics[key] for key in ("accuracy", "recall/Jasmine")}
        if rejected[0] is not None:
            found["rejected"] = share_of(int(np.concatenate(rejected).sum()), len(test), name="rejected")
        yield name, kind, found


if __name__ == "__main__":
    run_command(main)
