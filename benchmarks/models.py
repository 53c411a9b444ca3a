"""The same weights in every form that the benchmarks compare: plain transformers, dense ONNX, foreground ONNX."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from common import add_number
from transformers import ViTImageProcessor
from transformers.utils import logging

from rice_lib.backends.vit import PixelClassifier, RiceViTConfig, RiceViTForImageClassification, load_checkpoint
from rice_lib.common.parameters import ArchitectureParams, FinetuneParams
from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.data.synthetic import VARIETIES
from rice_lib.export.onnx import export
from rice_lib.models.vit import create_model

VIT_TINY = ArchitectureParams(hidden_size=192, layers=12, heads=3)
"""ViT-Ti/16 (Touvron et al. 2021, arXiv:2012.12877): 5.5 M parameters."""


@dataclass(frozen=True)
class Forms:
    """Where the forms lie."""

    transformers: Path
    """A directory that `transformers.pipeline("image-classification", model=...)` takes; dense."""
    dense: Path
    foreground: Path
    patches: int
    weights: str
    """In words."""


def add_weights(command: argparse.ArgumentParser) -> None:
    """Add the options that say which weights are compared."""
    add_number(command, "--patches", 48, "patches that the foreground form attends to")
    command.add_argument("--checkpoint", type=Path, metavar="DIR", help="weights (default: a random ViT-Ti)")


def write_forms(folder: Path, checkpoint: Path | None, patches: int) -> Forms:
    """Write every form of a checkpoint's weights, or of a ViT-Ti with random ones: speed does not depend on them.

    Raises:
        RiceError: there is no checkpoint of ours at `checkpoint`.
    """
    logging.set_verbosity_error()
    if checkpoint is None:
        torch.manual_seed(83)
        source = create_model(FinetuneParams(model="scratch", architecture=VIT_TINY), VARIETIES)
        weights = "ViT-Ti/16, random weights"
    else:
        source = load_checkpoint(checkpoint)
        weights = f"{checkpoint.parent.parent.name}/{checkpoint.parent.name}/{checkpoint.name}"
    plain = folder / "transformers"
    in_form(source, None).save_pretrained(plain)
    ViTImageProcessor(
        size={"height": IMAGE_SIZE, "width": IMAGE_SIZE}, image_mean=[0.5] * 3, image_std=[0.5] * 3
    ).save_pretrained(plain)
    labels = PixelClassifier(source).labels
    return Forms(
        plain,
        _export(source, None, folder / "dense.onnx", labels),
        _export(source, patches, folder / "foreground.onnx", labels),
        patches,
        weights,
    )


def in_form(source: RiceViTForImageClassification, patches: int | None) -> RiceViTForImageClassification:
    """Copy a model with other `foreground_patches`, in evaluation mode."""
    config = RiceViTConfig.from_dict({**source.config.to_dict(), "foreground_patches": patches})
    model = RiceViTForImageClassification(config)
    model.load_state_dict(source.state_dict())
    return model.eval()


def _export(source: RiceViTForImageClassification, patches: int | None, file: Path, labels: Sequence[str]) -> Path:
    return export(PixelClassifier(in_form(source, patches)), file, labels=labels)
