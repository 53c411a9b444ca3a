"""Measure models and ten plain features on an unseen capture session, and under shifts of scale, colour and light.

The ten features and logistic regression are fitted here, with and without those of size and of colour, once on the
random split and once on the session split of a profile (notebooks 01 and 02 wrote them). Models are measured as they
are; say with `--session-model` which of them never saw the second session.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import study

from rice_lib.backends.open import open_predictor
from rice_lib.common.errors import run_command
from rice_lib.common.run import Run
from rice_lib.contract.prediction import feature_table
from rice_lib.data.loading import Examples, open_examples
from rice_lib.data.shape_features import FEATURE_NAMES, shape_features
from rice_lib.data.synthetic import VARIETIES
from rice_lib.models.baseline import LinearClassifier, fit, thin
from rice_lib.models.metrics import label_columns, wilson

JASMINE = VARIETIES.index("Jasmine")
SIZE, COLOUR = ("area", "major axis", "minor axis"), ("red", "green", "blue", "luma spread")
WITHOUT = {"all": (), "without size": SIZE, "without colour": COLOUR, "without both": (*SIZE, *COLOUR)}

SPLITS = ("random", "session")

Change = Callable[[np.ndarray], np.ndarray]
"""uint8 `[224, 224, 3]` to the same."""


def scaled(factor: float) -> Change:
    """Enlarge about the middle; what is turned in from outside is black."""
    matrix = cv2.getRotationMatrix2D((111.5, 111.5), 0, factor)
    return lambda image: cv2.warpAffine(image, matrix, image.shape[:2], flags=cv2.INTER_LINEAR)


def gained(red: float, green: float, blue: float) -> Change:
    """Multiply each channel."""
    return lambda image: np.rint(image * np.array([red, green, blue])).clip(0, 255).astype(np.uint8)


def noisy(deviation: float) -> Change:
    """Add normal noise of that many grey levels, the same to every image."""
    noise = np.random.default_rng(0).normal(0, deviation, (224, 224, 3))
    return lambda image: np.rint(image + noise).clip(0, 255).astype(np.uint8)


def compressed(quality: int) -> Change:
    """Save as JPEG and load."""

    def change(image: np.ndarray) -> np.ndarray:
        _, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
        return cv2.imdecode(file, cv2.IMREAD_COLOR)

    return change


SHIFTS: dict[str, Change] = {
    "as photographed": lambda image: image,
    "scale 0.75": scaled(0.75),
    "scale 1.3": scaled(1.3),
    "red x 0.85": gained(0.85, 1, 1),
    "blue x 0.78": gained(1, 1, 0.78),
    "light x 0.7": gained(0.7, 0.7, 0.7),
    "grey": lambda image: np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2),
    "blur 1.5 px": lambda image: cv2.GaussianBlur(image, (0, 0), 1.5),
    "noise of 6 levels": noisy(6),
    "JPEG quality 40": compressed(40),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    command = study.parser(__doc__)
    command.add_argument("--model", action="append", default=[], help="model trained on the random split; repeatable")
    command.add_argument("--session-model", action="append", default=[], help="model that never saw the second session")
    command.add_argument("--images", type=int, default=1000, help="test images of each split (default: %(default)s)")
    command.add_argument("--models-only", action="store_true", help="leave the ten features out")
    arguments = command.parse_args(argv)
    run = study.open_run(arguments)
    tests = {s: thin(open_examples(run.paths, s, "test"), arguments.images, run.params.seed) for s in SPLITS}
    shifted = {
        split: {name: np.stack([change(image) for image in test.batch(slice(None))]) for name, change in SHIFTS.items()}
        for split, test in tests.items()
    }
    rows = []
    if not arguments.models_only:
        rows = [row for split in SPLITS for row in features_rows(run, split, tests[split], shifted[split])]
    for name in arguments.model:
        rows += [
            row for split in SPLITS for row in model_rows(name, split, tests[split], shifted[split], Path(name).name)
        ]
    for name in arguments.session_model:
        rows += model_rows(name, "session", tests["session"], shifted["session"], Path(name).name)
    print("\n".join(line(row) for row in rows))
    study.write(arguments, run, "shifts", rows)
    return 0


def features_rows(run: Run, split: str, test: Examples, shifted: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    """Fit logistic regression on the features of the split's training images, and measure it under every shift."""
    train = thin(open_examples(run.paths, split, "train"), 8000, run.params.seed)
    values = shape_features(image for image in train.batch(slice(None)))
    tests = {name: shape_features(images) for name, images in shifted.items()}
    rows = []
    for which, left_out in WITHOUT.items():
        columns = [number for number, name in enumerate(FEATURE_NAMES) if name not in left_out]
        classifier: LinearClassifier = fit(values[:, columns], train.labels, 1.0, {})
        for name, features in tests.items():
            predicted = classifier.scores(features[:, columns]).argmax(axis=1)
            rows.append(row_of(f"ten features, {which}", split, name, test.labels, predicted))
    return rows


def model_rows(
    spec: str, split: str, test: Examples, shifted: Mapping[str, np.ndarray], title: str
) -> list[dict[str, Any]]:
    """Measure a model under every shift, and the share of the images that it rejects."""
    rows = []
    with open_predictor(spec, threads=1) as predictor:
        column = label_columns(predictor, test.classes)
        for name, images in shifted.items():
            logits = np.concatenate([predictor.logits(images[i : i + 8]) for i in range(0, len(images), 8)])
            row = row_of(title, split, name, test.labels, logits[:, column].argmax(axis=1))
            if predictor.decision is not None:
                reasons = predictor.decision.rejections(logits, feature_table(images))
                row["rejected"] = sum(reason is not None for reason in reasons) / len(reasons)
            rows.append(row)
    return rows


def row_of(model: str, split: str, shift: str, labels: np.ndarray, predicted: np.ndarray) -> dict[str, Any]:
    """Compute accuracy with its 95 % Wilson interval, and the recall of Jasmine."""
    correct = predicted == labels
    low, high = wilson(int(correct.sum()), len(labels))
    return {
        "model": model, "split": split, "shift": shift, "images": len(labels), "accuracy": float(correct.mean()),
        "low": low, "high": high, "jasmine_recall": float(correct[labels == JASMINE].mean()),
    }  # fmt: skip


def line(row: Mapping[str, Any]) -> str:
    """One row of the table for people."""
    rejected = f"{row['rejected']:>10.2%}" if "rejected" in row else ""
    return (
        f"{row['model']:<36} {row['split']:<8} {row['shift']:<18} {row['accuracy']:>8.4f} "
        f"({row['low']:.4f} - {row['high']:.4f}) Jasmine {row['jasmine_recall']:.3f}{rejected}"
    )


if __name__ == "__main__":
    run_command(main)
