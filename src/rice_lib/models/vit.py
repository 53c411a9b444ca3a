"""The model to train: a ViT from pretrained weights, the shipped ones among them, or from random ones (`scratch`)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from timm.layers import build_sincos2d_pos_embed
from transformers.utils import logging

from rice_lib.backends.vit import STEM_STRIDE, RiceViTConfig, RiceViTForImageClassification
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import FinetuneParams
from rice_lib.common.paths import find_root
from rice_lib.contract.decode import IMAGE_SIZE

SHIPPED = "models/rice-vit-tiny"
"""Weights of the model that ships, below the project's root: `finetune.model: shipped`."""


def create_model(params: FinetuneParams, labels: Sequence[str]) -> RiceViTForImageClassification:
    """Create the model to train: the shipped one, one of a hub or a local directory, or of random weights (`scratch`).

    Raises:
        RiceError: the weights cannot be had, are not a ViT's, or `architecture` does not belong to them.
    """
    changes: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {name: number for number, name in enumerate(labels)},
        "foreground_patches": params.foreground_patches,
        "aligned_frame": params.aligned_frame,
        "grain_features": params.grain_features,
    }
    source = params.model
    if source == "shipped":
        if params.aligned_frame is not None or params.foreground_patches is not None:
            raise RiceError("finetune.model=shipped brings its aligned_frame; leave that and foreground_patches null")
        source = str(find_root() / SHIPPED)
        if not Path(source, "config.json").is_file():  # transformers would look for a hub's model of that name
            raise RiceError(f"{source}: missing from the checkout; get it back with: git checkout {SHIPPED}")
        del changes["foreground_patches"], changes["aligned_frame"]
    if params.aligned_frame is not None and params.foreground_patches is not None:
        raise RiceError("finetune.aligned_frame: the complete frame is attended to; set foreground_patches to null")
    if params.model == "scratch":
        return _from_scratch(params, changes)
    if params.architecture is not None:
        raise RiceError("finetune.architecture: only for finetune.model=scratch; a pretrained model brings its own")
    logging.set_verbosity_error()  # transformers lists the weights of a new head as missing
    try:
        config = RiceViTConfig.from_pretrained(source, **changes)
        if config.model_type != "vit" or config.image_size != IMAGE_SIZE:
            raise RiceError(f"finetune.model={params.model}: not a ViT for {IMAGE_SIZE} px images")
        return RiceViTForImageClassification.from_pretrained(source, config=config, ignore_mismatched_sizes=True)
    except (OSError, ValueError) as error:
        fault = f"finetune.model={params.model}: cannot be loaded ({str(error).strip().splitlines()[0]})"
        raise RiceError(f"{fault}; name a local directory, or `scratch`") from None


def _from_scratch(params: FinetuneParams, changes: dict[str, Any]) -> RiceViTForImageClassification:
    shape = params.architecture
    if shape is None:
        raise RiceError("finetune.architecture: needed where finetune.model is scratch")
    if shape.hidden_size % shape.heads or shape.hidden_size % 4 or IMAGE_SIZE % shape.patch_size:
        fault = f"hidden_size must divide by heads and by 4, and {IMAGE_SIZE} by patch_size"
        raise RiceError(f"finetune.architecture: {fault}")
    if params.aligned_frame is None and shape.stem_channels:
        raise RiceError("finetune.architecture: stem_channels wants finetune.aligned_frame")
    if shape.stem_channels and shape.patch_size % STEM_STRIDE:
        raise RiceError(f"finetune.architecture: with stem_channels, patch_size must divide by {STEM_STRIDE}")
    config = RiceViTConfig(
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        intermediate_size=shape.mlp_ratio * shape.hidden_size,
        patch_size=shape.patch_size,
        image_size=IMAGE_SIZE,
        stem_channels=shape.stem_channels,
        stem_depth=shape.stem_depth,
        **changes,
    )
    model = RiceViTForImageClassification(config)
    for layer in model.modules():  # transformers' weights of 0.02 are small for a convolution of few inputs
        if isinstance(layer, torch.nn.Conv2d) and layer is not model.vit.embeddings.patch_embeddings.projection:
            layer.reset_parameters()
    with torch.no_grad():
        # where training is short, learnt positions start best from sines and cosines (Beyer, Zhai & Kolesnikov 2022,
        # "Better plain ViT baselines for ImageNet-1k", arXiv:2205.01580)
        side = IMAGE_SIZE // shape.patch_size
        positions = build_sincos2d_pos_embed([side, side], shape.hidden_size, interleave_sin_cos=True)
        # columns first, as the weights that ship were trained
        model.vit.embeddings.position_embeddings[0, 1:] = 0.2 * positions.roll(shape.hidden_size // 2, 1)
    return model
