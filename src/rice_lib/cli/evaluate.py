"""`rice evaluate`: measure any model on the images of a split.

rice evaluate --model models/rice-vit-tiny.onnx --split test --profile local
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from rice_lib.backends.open import open_predictor
from rice_lib.cli.arguments import check_output, positive, profile_parser
from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_json
from rice_lib.common.run import Run
from rice_lib.common.tracking import Metric, provenance
from rice_lib.data.loading import Examples, open_examples
from rice_lib.data.split import PARTS, SCHEMES
from rice_lib.models.metrics import (
    classification_metrics,
    evaluate,
    expected_calibration_error,
    mcnemar,
    write_predictions,
)  # fmt: skip


def main(arguments: Sequence[str] | None = None, prog: str = "rice evaluate") -> int:
    """Run the command; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    for output in (options.output, options.predictions):
        check_output(output, (options.model, options.against))
    run = Run.open(options.profile)
    with open_predictor(options.model) as predictor:
        examples = open_examples(run.paths, options.scheme, options.split)
        if len(examples) == 0:
            raise RiceError(f"split {options.scheme}/{options.split}: holds no image")
        evaluation = evaluate(predictor, examples, options.batch_size)
    scores, predicted = evaluation.scores, evaluation.scores.argmax(axis=1)
    against = _against(options, examples, predicted) if options.against else None
    metrics = classification_metrics(examples.labels, predicted, examples.classes, run.params.seed)
    metrics["ece"] = expected_calibration_error(examples.labels, scores, run.params.seed)
    metrics["rejected"] = evaluation.rejected()
    counts = confusion_matrix(examples.labels, predicted, labels=np.arange(len(examples.classes)))
    what = {name: getattr(options, name) for name in ("model", "profile", "scheme", "split")}
    print(_table(what, metrics, pd.DataFrame(counts, examples.classes, examples.classes)))
    if against:
        print(
            f"\nagainst {against['model']}, which misclassifies {against['errors']:,}: only {options.model} is "
            f"incorrect on {against['only_a_wrong']:,} images, only the other on {against['only_b_wrong']:,}; "
            f"McNemar's exact p = {against['p_value']:.3g}"
        )
    if options.predictions:
        write_predictions(options.predictions, examples, scores)
    if options.output:
        content = {
            **what,
            "metrics": {name: asdict(metric) for name, metric in metrics.items()},
            "confusion": {"labels": examples.classes, "counts": counts.tolist()},
            **({"against": against} if against else {}),
            "provenance": provenance(run),
        }
        write_json(options.output, content)
    return 0


def _against(options: argparse.Namespace, examples: Examples, predicted: np.ndarray) -> dict[str, Any]:
    """Count the other model's errors on the same images; McNemar's test."""
    with open_predictor(options.against) as predictor:
        theirs = evaluate(predictor, examples, options.batch_size).scores.argmax(axis=1)
    wrong = int((theirs != examples.labels).sum())
    return {"model": options.against, "errors": wrong, **asdict(mcnemar(examples.labels, predicted, theirs))}


def parser(prog: str) -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    command = profile_parser(prog, "Measure a model on the images of a split.")
    kinds = "checkpoint directory, .onnx, TensorRT plan, or triton://host:port/name"
    command.add_argument("--model", required=True, help=kinds)
    command.add_argument("--split", default="test", choices=PARTS, help="part of the split (default: test)")
    command.add_argument("--scheme", default="random", choices=SCHEMES, help="how the split divides (default: random)")
    command.add_argument("--batch-size", type=positive, default=32, help="images a call (default: 32)")
    command.add_argument("--against", metavar="M", help="another model on the same images, by McNemar's test")
    command.add_argument("--output", type=Path, metavar="FILE.json", help="write the figures here too")
    command.add_argument("--predictions", type=Path, metavar="FILE.csv", help="write each image's scores here")
    return command


def _table(what: Mapping[str, str], metrics: Mapping[str, Metric], counts: pd.DataFrame) -> str:
    rows = {name: _row(metric) for name, metric in metrics.items()}
    table = pd.DataFrame.from_dict(rows, orient="index", columns=["value", "95 % interval", "images"])
    confusion = counts.rename_axis(columns="true, predicted:")
    return "\n\n".join([", ".join(f"{k} {v}" for k, v in what.items()), table.to_string(), confusion.to_string()])


def _row(metric: Metric) -> list[str]:
    if metric.value is None:
        return ["-", metric.how, ""]
    interval = "" if metric.low is None else f"{metric.low:.5f} - {metric.high:.5f}"
    return [f"{metric.value:.0f}" if metric.unit else f"{metric.value:.5f}", interval, f"{metric.n:,}"]
