"""Augment images of single grains: what another camera, light or file would change, and the variety does not.

A grain has no upright, and how large and how coloured it appears depends on the camera as much as on the variety.
Works on bytes with OpenCV, in the loader, and draws from torch's global generator, whose state training checkpoints
hold. Every ingredient is a parameter of `AugmentationParams`; at its off value it costs nothing.
"""

from __future__ import annotations

import math
from functools import cache

import cv2
import numpy as np
import torch

from rice_lib.common.parameters import AugmentationParams

NOISE_LENGTH = 1 << 20
"""Values of the noise that is drawn once; each image takes a piece of it that starts at random."""


def augment(images: np.ndarray, params: AugmentationParams) -> np.ndarray:
    """Change each image of a batch, uint8 RGB `[N, H, W, 3]`, at random; gives a new array of that shape and type.

    The order is a camera's: geometry, colour, light and background; then blur; then noise; then the file's JPEG. What
    is turned in from outside is black.
    """
    count, height, width = images.shape[:3]
    matrices = random_affine(count, height, width, params)
    tables = random_tables(count, params)
    grey = _unit(count) < params.greyscale
    changed = np.empty_like(images)
    for image, matrix, table, to_grey, out in zip(images, matrices, tables, grey, changed, strict=True):
        moved = cv2.warpAffine(image, matrix, (width, height), flags=cv2.INTER_LINEAR)
        if to_grey:
            moved = cv2.cvtColor(cv2.cvtColor(moved, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
        cv2.LUT(moved, table[None], dst=out)
    if params.blur:
        _blur(changed, params.blur)
    if params.noise:
        _add_noise(changed, params.noise)
    if params.jpeg_quality is not None:
        _recompress(changed, params.jpeg_quality)
    return changed


def random_affine(count: int, height: int, width: int, params: AugmentationParams) -> np.ndarray:
    """Draw rotation, mirroring, scale, stretch along a random direction and shift about the image's middle.

    Returns float64 `[count, 2, 3]`, input to output pixels, as `cv2.warpAffine` takes them.
    """
    angle = math.radians(params.rotation_degrees) * _uniform(count)
    mirror = np.where(_uniform(count) < 0, -1.0, 1.0) if params.flip else np.ones(count)
    turn = _rotation(angle)
    turn[:, :, 0] *= mirror[:, None]
    linear = turn * _factors(count, params.scale)[:, None, None]
    if params.stretch:
        along = _rotation(math.pi * _uniform(count))
        root = np.sqrt(_factors(count, params.stretch))
        linear = (along * np.stack([root, 1 / root], axis=1)[:, None, :]) @ along.transpose(0, 2, 1) @ linear
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    shift = params.shift * np.stack([_uniform(count) * width, _uniform(count) * height], axis=1)
    return np.concatenate([linear, (middle + shift - linear @ middle)[:, :, None]], axis=2)


def random_tables(count: int, params: AugmentationParams) -> np.ndarray:
    """Draw what becomes of each grey level of each channel: uint8 `[count, 256, 3]`, as `cv2.LUT` takes them.

    Gamma first, then the gain of all channels (light) and of each (white balance), then the background's level, which
    lifts black and leaves white. Half of the images keep their light and colour.
    """
    changed = _unit(count) < 0.5
    gamma = (_factors(count, params.gamma) ** changed)[:, None, None]
    light = (1 + params.brightness * _uniform(count))[:, None]
    gain = (light * _factors(3 * count, params.channel_gain).reshape(-1, 3)) ** changed[:, None]
    background = (params.background * changed * _unit(count))[:, None, None]
    level = (np.arange(256) / 255)[None, :, None] ** gamma * gain[:, None, :]
    return np.rint(255 * np.clip(background + (1 - background) * level, 0, 1)).astype(np.uint8)


def _blur(images: np.ndarray, largest: float) -> None:
    """Blur half of the images in place, with a Gaussian of standard deviation up to `largest` pixels."""
    for image, sigma in zip(images, largest * _uniform(len(images)), strict=True):
        if sigma > 0.2:
            cv2.GaussianBlur(image, (0, 0), float(sigma), dst=image, borderType=cv2.BORDER_REPLICATE)


def _add_noise(images: np.ndarray, largest: float) -> None:
    """Add normal noise of a standard deviation up to `largest` grey levels to half of the images, in place."""
    starts = (_unit(len(images)) * (NOISE_LENGTH - images[0].size)).astype(int)
    for image, start, deviation in zip(images, starts, largest * _uniform(len(images)), strict=True):
        if deviation > 0:
            noise = _noise()[start : start + image.size].reshape(image.shape)
            np.copyto(image, np.clip(image + np.float32(deviation) * noise + 0.5, 0, 255), casting="unsafe")


def _recompress(images: np.ndarray, lowest: int) -> None:
    """Save and load half of the images as JPEG of a quality between `lowest` and 95, in place."""
    for image, draw in zip(images, _uniform(len(images)), strict=True):
        if draw > 0:
            quality = [cv2.IMWRITE_JPEG_QUALITY, int(lowest + draw * (95 - lowest))]
            _, file = cv2.imencode(".jpg", image, quality)
            decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)
            assert decoded is not None  # it was encoded a line above
            image[:] = decoded  # encoder and decoder both take the channels in OpenCV's order: it stays as it is


@cache
def _noise() -> np.ndarray:
    """Standard normal noise, float32 `[NOISE_LENGTH]`."""
    return np.random.default_rng(0).standard_normal(NOISE_LENGTH, dtype=np.float32)


def _rotation(angle: np.ndarray) -> np.ndarray:
    """Rotation matrices, float64 `[n, 2, 2]`."""
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.stack([np.stack([cosine, -sine], axis=1), np.stack([sine, cosine], axis=1)], axis=1)


def _factors(count: int, most: float) -> np.ndarray:
    """Log-uniform between 1 / (1 + most) and 1 + most, float64 `[count]`."""
    return np.exp(math.log1p(most) * _uniform(count))


def _uniform(count: int) -> np.ndarray:
    """Uniform on [-1, 1), float64 `[count]`."""
    return _unit(count) * 2.0 - 1.0


def _unit(count: int) -> np.ndarray:
    """Uniform on [0, 1), float64 `[count]`."""
    return torch.rand(count, dtype=torch.float64).numpy()
