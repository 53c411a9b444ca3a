"""`rice evaluate`: measure any model on the images of a split.

rice evaluate --model models/rice-vit-tiny.onnx --split test --profile local
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from rice_lib.cli.arguments import check_output, positive
from rice_lib.common.classes import VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_json
from rice_lib.common.tracking import Metric
from rice_lib.data.split import PARTS, SCHEMES
from rice_lib.models.metrics import classification_metrics, confusion_counts, evaluate, mcnemar, write_predictions
from rice_lib.models.reliability import expected_calibration_error

if TYPE_CHECKING:
    from rice_lib.data.loading import Examples

PROG = "rice evaluate"


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """Run the command; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    for output in (options.output, options.predictions):
        check_output(output, (options.model, options.against))

    from rice_lib.backends.open import open_predictor
    from rice_lib.common.run import Run
    from rice_lib.common.tracking import provenance
    from rice_lib.data.loading import open_examples

    run = Run.open(options.profile)
    with open_predictor(options.model) as predictor:
        examples = open_examples(run.paths, options.scheme, options.split)
        if len(examples) == 0:
            raise RiceError(f"split {options.scheme}/{options.split}: holds no image")
        evaluation = evaluate(predictor, examples, options.batch_size)
    scores = evaluation.scores
    against = _against(options, examples, scores.argmax(axis=1)) if options.against else None
    metrics = classification_metrics(examples.labels, scores.argmax(axis=1), run.params.seed)
    metrics["ece"] = expected_calibration_error(examples.labels, scores, run.params.seed)
    metrics["rejected"] = evaluation.rejected()
    counts = confusion_counts(examples.labels, scores.argmax(axis=1))
    what = {name: getattr(options, name) for name in ("model", "profile", "scheme", "split")}
    print(_table(what, metrics, counts))
    if against:
        print(_comparison(options.model, against))
    if options.predictions:
        write_predictions(options.predictions, examples, scores)
    if options.output:
        write_json(
            options.output,
            {
                **what,
                "metrics": {name: asdict(metric) for name, metric in metrics.items()},
                "confusion": {"labels": VARIETIES, "counts": counts.tolist()},
                "wrong": _misclassified(examples, scores),
                **({"against": against} if against else {}),
                "provenance": provenance(run),
            },
        )
    return 0


def _against(options: argparse.Namespace, examples: Examples, predicted: np.ndarray) -> dict[str, Any]:
    """Count the other model's errors on the same images; McNemar's test."""
    from rice_lib.backends.open import open_predictor

    with open_predictor(options.against) as predictor:
        theirs = evaluate(predictor, examples, options.batch_size).scores.argmax(axis=1)
    wrong = int((theirs != examples.labels).sum())
    return {"model": options.against, "errors": wrong, **asdict(mcnemar(examples.labels, predicted, theirs))}


def _comparison(model: str, against: Mapping[str, Any]) -> str:
    return (
        f"\nagainst {against['model']}, which misclassifies {against['errors']:,}: only {model} is incorrect on "
        f"{against['only_a_wrong']:,} images, only the other on {against['only_b_wrong']:,}; "
        f"McNemar's exact p = {against['p_value']:.3g}"
    )


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    command = argparse.ArgumentParser(prog=prog, description="Measure a model on the images of a split.")
    command.add_argument(
        "--model",
        required=True,
        help="checkpoint directory, .onnx, TensorRT plan, or triton://host:port/name",
    )
    command.add_argument("--split", default="test", choices=PARTS, help="part of the split (default: test)")
    command.add_argument("--scheme", default="random", choices=SCHEMES, help="how the split divides (default: random)")
    command.add_argument("--profile", default="smoke", help="whose images (default: smoke)")
    command.add_argument("--batch-size", type=positive, default=32, help="images a call (default: 32)")
    command.add_argument("--against", metavar="M", help="another model on the same images, by McNemar's test")
    command.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures here too")
    command.add_argument("--predictions", type=Path, metavar="FILE.csv", help="write each image's scores here")
    return command


def _table(what: Mapping[str, str], metrics: Mapping[str, Metric], counts: np.ndarray) -> str:
    rows = {
        name: [f"{metric.value:.0f}" if metric.unit else f"{metric.value:.5f}", _interval(metric), f"{metric.n:,}"]
        if metric.value is not None
        else ["-", metric.how, ""]
        for name, metric in metrics.items()
    }
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "95 % interval", "images"])
    confusion = pd.DataFrame(counts, VARIETIES, pd.Index(VARIETIES, name="true, predicted:"))
    return "\n\n".join([", ".join(f"{k} {v}" for k, v in what.items()), table.to_string(), confusion.to_string()])


def _interval(metric: Metric) -> str:
    return "" if metric.low is None else f"{metric.low:.5f} - {metric.high:.5f}"


def _misclassified(examples: Examples, scores: np.ndarray) -> list[dict[str, Any]]:
    predicted = scores.argmax(axis=1)
    return [
        {
            "path": examples.paths[i],
            "label": VARIETIES[examples.labels[i]],
            "predicted": VARIETIES[predicted[i]],
            "confidence": round(float(scores[i].max()), 6),
        }
        for i in np.flatnonzero(predicted != examples.labels)
    ]
