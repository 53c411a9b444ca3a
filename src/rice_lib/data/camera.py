"""Simulate another camera: a test grain on another background, through another lens, light, sensor and file.

No public set shows these varieties under a second camera, so the third test after the random split and the unseen
session is a simulated one. Every draw lies outside what the public set's photographs span.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import cv2
import numpy as np

from rice_lib.contract.decode import IMAGE_SIZE
from rice_lib.data.loading import Examples
from rice_lib.data.shape_features import grain_mask

RANGES = {
    "scale": (1.25, 1.6),  # factor, up or down; up only as far as the grain stays whole
    "warmth": (1.2, 1.4),  # red over blue, or blue over red
    "light": (0.55, 0.8),  # gain of all channels
    "gamma": (1.1, 1.3),  # of the tone curve, or one over it
    "lens": (0.05, 0.15),  # radial distortion at the frame's edge, barrel or pincushion
    "tilt": (0.05, 0.12),  # perspective: how much larger the near edge is than the middle
    "vignette": (0.15, 0.4),  # share of the light that a corner lacks
    "background": (20.0, 60.0),  # brightest channel's mean, grey levels
    "texture": (3.0, 8.0),  # standard deviation of the background, grey levels
    "blur": (0.9, 1.6),  # standard deviation, pixels
    "noise": (4.0, 8.0),  # standard deviation in white, grey levels; it falls with the root of the light
    "jpeg": (30.0, 60.0),  # quality
}
"""The interval from which each property is drawn, uniformly."""
EITHER_WAY = {"scale": 1.0, "warmth": 1.0, "gamma": 1.0, "lens": 0.0, "tilt": 0.0}
"""What goes the other way on a coin's word, and its neutral value: one over the factor (1), or the negative (0)."""
LARGEST_RADIUS = 0.46 * IMAGE_SIZE  # of the circle about a grain in the photograph: no grain is cut by the border
IMAGES = 2000  # that the notebooks send through it, at most: enough for an interval of +-0.01 from 0.95 on


def draw(random: np.random.Generator) -> dict[str, float]:
    """Draw a camera: each property of `RANGES`."""
    camera = {name: random.uniform(*interval) for name, interval in RANGES.items()}
    for name, neutral in EITHER_WAY.items():
        if random.random() < 0.5:
            camera[name] = 1 / camera[name] if neutral else -camera[name]
    return camera


def rephotograph(examples: Examples, seed: int) -> Examples:
    """Photograph each image by a camera of its own, drawn by the seed and its row: the same labels and paths."""
    pixels = np.empty((len(examples), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    for row, photographed in zip(examples.rows, pixels, strict=True):
        random = np.random.default_rng([seed, row])
        photographed[:] = photograph(examples.pixels[row], draw(random), random)
    return Examples(pixels, np.arange(len(examples)), examples.labels, examples.paths, examples.classes)


def photograph(image: np.ndarray, camera: Mapping[str, float], random: np.random.Generator) -> np.ndarray:
    """Photograph the grain of an image, uint8 `[224, 224, 3]` on black, by that camera: uint8 of the same shape."""
    across = np.linspace(-1, 1, IMAGE_SIZE, dtype=np.float32)
    place = np.stack(np.meshgrid(across, across))  # x and y from edge to edge
    grain, cover = _through_the_lens(image, camera, place, random)
    shadow = cv2.GaussianBlur(np.roll(cover, (4, 4), (0, 1)), (0, 0), 5)
    scene = grain + _background(camera, random) * ((1 - 0.5 * shadow) * (1 - cover))[:, :, None]
    middle = random.uniform(-0.3, 0.3, (2, 1, 1)).astype(np.float32)  # of the light
    fall = 1 - camera["vignette"] / 2 * ((place - middle) ** 2).sum(0)
    root = math.sqrt(camera["warmth"])
    gain = np.array([root, 1, 1 / root], np.float32) * (camera["light"] / 255)
    seen = cv2.GaussianBlur(scene * fall[:, :, None] * gain, (0, 0), camera["blur"]).clip(0, 1) ** camera["gamma"]
    # twice the noise: the blur that makes neighbours share it halves it
    noise = 2 * cv2.GaussianBlur(random.standard_normal(seen.shape, np.float32), (0, 0), 0.6)
    seen += camera["noise"] / 255 * np.sqrt(seen + np.float32(0.05)) * noise
    levels = np.rint(255 * seen.clip(0, 1)).astype(np.uint8)
    quality = [cv2.IMWRITE_JPEG_QUALITY, round(camera["jpeg"])]
    _, file = cv2.imencode(".jpg", cv2.cvtColor(levels, cv2.COLOR_RGB2BGR), quality)
    return cv2.imdecode(file, cv2.IMREAD_COLOR_RGB)  # type: ignore[return-value]  # it was encoded a line above


def _through_the_lens(
    image: np.ndarray, camera: Mapping[str, float], place: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Project the cut-out grain: its light, float32 `[224, 224, 3]`, and the share of each pixel that it covers."""
    mask = cv2.dilate(grain_mask(image), np.ones((3, 3), np.uint8))
    solid = cv2.erode(mask, np.ones((7, 7), np.uint8))
    cover = np.maximum(solid, mask * np.minimum(image.max(axis=2) / np.float32(120), 1))
    points = cv2.findNonZero(mask)
    assert points is not None  # a usable image holds a grain
    middle, radius = cv2.minEnclosingCircle(points)
    # how much farther out the lens and the tilt may put a point, at most
    farther = (1 + abs(camera["tilt"])) / (1 + min(camera["lens"], 0))
    scale = min(camera["scale"], LARGEST_RADIUS / (radius * farther))
    angle, lean = random.uniform(0, 2 * math.pi, 2)
    leaning = math.cos(lean) * place[0] + math.sin(lean) * place[1]
    bend = (1 + camera["lens"] * (place**2).sum(0)) / (1 + camera["tilt"] * leaning)
    x, y = place * bend * (IMAGE_SIZE / 2 / scale)
    turned = (math.cos(angle) * x - math.sin(angle) * y, math.sin(angle) * x + math.cos(angle) * y)
    layers = np.dstack([image * mask[:, :, None], cover]).astype(np.float32)
    seen = cv2.remap(layers, turned[0] + middle[0], turned[1] + middle[1], cv2.INTER_LINEAR)
    return seen[:, :, :3], seen[:, :, 3]


def _background(camera: Mapping[str, float], random: np.random.Generator) -> np.ndarray:
    """Paint dark cloth of some colour, with soft clouds and a fine weave: float32 `[224, 224, 3]`."""
    colour = camera["background"] * np.array([1, *random.uniform(0.5, 1, 2)], np.float32)[random.permutation(3)]
    clouds = cv2.resize(random.standard_normal((6, 6), np.float32), (IMAGE_SIZE, IMAGE_SIZE))
    weave = random.standard_normal((IMAGE_SIZE, IMAGE_SIZE), np.float32)
    return (colour + (camera["texture"] * math.sqrt(0.5) * (clouds + weave))[:, :, None]).clip(0)
