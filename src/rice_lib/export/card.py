"""Make the card of a trained model in the Hugging Face form: its use, data, licence, accuracy and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

Results = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Name of a test to its metrics, each with the fields of `tracking.Metric`; `accuracy` is among them."""

COLUMNS = ("accuracy", "macro_f1", "rejected")


def model_card(labels: Sequence[str], provenance: Mapping[str, Any], results: Results, images: str) -> ModelCard:
    """Make the card of a model, from `card.md.jinja`.

    Args:
        labels: class names.
        provenance: of the checkpoint (`vit.read_provenance`), with the `profile` and the `scheme` of its training.
        results: of each test, the one of its own split first.
        images: what it was trained on and under which licence, a sentence without its full stop.

    Raises:
        ValueError: a result is not of the form that the Hub takes.
    """
    start = provenance["finetune"]["model"]
    base = None if start in ("scratch", "shipped") else start
    about = ModelCardData(
        license="apache-2.0" if base is None else "other",
        license_name=None if base is None else "see-base-model",
        base_model=base,
        library_name="rice_lib",
        pipeline_tag="image-classification",
        tags=["rice", "vision-transformer", "onnx"],
        model_name=f"rice-vit-{provenance['profile']}",
        eval_results=[_eval_result(test, metrics["accuracy"]["value"]) for test, metrics in results.items()],
    )
    rows = [(test, *(_shown(metrics.get(key)) for key in COLUMNS)) for test, metrics in results.items()]
    said: dict[str, Any] = {
        "labels": list(labels),
        "base": base,
        "images": images,
        "provenance": provenance,
        "rows": rows,
    }
    return ModelCard.from_template(about, template_path=str(Path(__file__).with_name("card.md.jinja")), **said)


def summary(labels: Sequence[str], results: Results) -> str:
    """Say the card in a paragraph, for a file's metadata."""
    accuracies = "; ".join(f"{test}: accuracy {_shown(metrics['accuracy'])}" for test, metrics in results.items())
    known = ", ".join(labels)
    return f"Classifies photographs of one grain of rice on a dark background. Its classes: {known}. {accuracies}."


def _eval_result(test: str, accuracy: float) -> EvalResult:
    # without a configuration of its own, every test of one data set would be taken for the same
    task = "image-classification"
    return EvalResult(task, "rice", test, "accuracy", accuracy, dataset_config=test)


def _shown(metric: Mapping[str, Any] | None) -> str:
    """Write a metric as `0.9977 [0.9961, 0.9986], 6,000 images`; a dash where it was not measured."""
    if metric is None or metric["value"] is None:
        return "-"
    interval = "" if metric["low"] is None else f" [{metric['low']:.4f}, {metric['high']:.4f}]"
    return f"{metric['value']:.4f}{interval}" + ("" if metric["n"] is None else f", {metric['n']:,} images")
