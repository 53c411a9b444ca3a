"""Compute features of a grain inside a model's graph: size, outline, colour and texture, from pixels.

What `backends.align` takes away, for sets whose images share one scale and one light: there size and colour belong to
the variety. The features read the grain in a frame of its own axes, half a length and half a width long, so that its
outline and its chalk are compared part by part. None changes when the grain is turned or mirrored.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from rice_lib.contract.decode import NORMALISE_MEAN, NORMALISE_STD
from rice_lib.contract.features import LUMA

FEATURES = 70
"""Their number."""

STEP = 2
"""Pixels across and down that are averaged into one first."""

HEIGHT, WIDTH = 40, 80
"""Pixels of the frame of the grain's axes."""

REACH = 1.3
"""How far the frame reaches, in half axes of the ellipse with the grain's moments: pointed tips lie beyond it."""

CORE = 0.8
"""Radius, in half axes, inside which colour and texture are read: the rim is blurred with the background."""

SHELLS = ((0.0, 0.35), (0.35, 0.6), (0.6, 0.8), (0.8, 0.95))
"""Radii between which level and spread are read: a white centre or belly shows as steps from one to the next."""

LEVELS = (0.8, 0.9, 1.1, 1.2)
"""Shares of the core's mean level; the share of the core above each describes its bright and dark patches."""

DARK, BRIGHT = 30.0, 50.0
"""Grey levels of the brightest channel at which a pixel is background and grain; between them it is in part
(`contract.features.BACKGROUND_MAX` is the middle)."""


class GrainFeatures(nn.Module):
    """Normalised images of one grain each to its features; no learnt weight, every operation has an ONNX equivalent.

    Lengths are logarithms of pixels, colours logarithms of ratios, and the rest are shares.
    """

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute the features, float32 `[N, FEATURES]`, of normalised images `[N, 3, H, W]`."""
        # the frame has about half of the image's pixels a grain: the others would cost time and add noise
        levels = nn.functional.avg_pool2d(images.float(), STEP) * NORMALISE_STD + NORMALISE_MEAN
        cover = ((levels.amax(1) - DARK) / (BRIGHT - DARK)).clamp(0, 1)
        axes = _Axes(cover)
        frame = nn.functional.grid_sample(
            torch.cat([levels * cover.unsqueeze(1), cover.unsqueeze(1)], 1), axes.grid(), align_corners=False
        )
        inside = frame[:, 3]
        colours = frame[:, :3] / inside.clamp(min=0.05).unsqueeze(1)
        return torch.cat([axes.sizes(cover), *_outline(inside), *_appearance(colours, inside)], 1)


class FeatureHead(nn.Module):
    """A linear classifier of an embedding and the grain's features side by side, each standardised first."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, width: int, classes: int) -> None:
        """Prepare for vectors of `width` values; `models.head.fit_head` fits all of it."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.linear = nn.Linear(width, classes)

    def forward(self, evidence: torch.Tensor) -> torch.Tensor:
        """Compute logits, float32 `[N, classes]` of `[N, width]`."""
        return self.linear((evidence - self.mean) / self.scale)


class _Axes:
    """Centre, direction and half axes of the ellipse with each grain's second moments."""

    def __init__(self, cover: torch.Tensor) -> None:
        self.side = cover.shape[-1]
        place = torch.arange(self.side, device=cover.device) + 0.5 - self.side / 2
        x, y = place[None, :], place[:, None]
        self.area = cover.sum((1, 2)).clamp(min=1)
        self.x, self.y, xx, yy, xy = ((cover * of).sum((1, 2)) / self.area for of in (x, y, x * x, y * y, x * y))
        # a pixel is a square, not a point: 1/12 is its own second moment
        middle = (xx - self.x**2 + yy - self.y**2) / 2 + 1 / 12
        difference, twice = (xx - self.x**2) - (yy - self.y**2), 2 * (xy - self.x * self.y)
        spread = (difference**2 + twice**2).clamp(min=1e-9).sqrt()
        self.major, self.minor = (2 * (middle + half).clamp(min=0.1).sqrt() for half in (spread / 2, -spread / 2))
        self.cosine = ((1 + difference / spread).clamp(min=0) / 2).sqrt()
        self.sine = ((1 - difference / spread).clamp(min=0) / 2).sqrt() * torch.where(twice < 0, -1.0, 1.0)

    def grid(self) -> torch.Tensor:
        """Compute where the frame samples the image, `[N, HEIGHT, WIDTH, 2]`, -1 to 1."""
        device = self.area.device
        major, minor, cosine, sine = (v[:, None, None] for v in (self.major, self.minor, self.cosine, self.sine))
        along, across = major * _ticks(WIDTH, device)[None, None, :], minor * _ticks(HEIGHT, device)[None, :, None]
        x = self.x[:, None, None] + cosine * along - sine * across
        y = self.y[:, None, None] + sine * along + cosine * across
        return torch.stack([x, y], -1) * (2 / self.side)

    def sizes(self, cover: torch.Tensor) -> torch.Tensor:
        """Compute length, width, aspect, area, fill of the ellipse, and roundness (1 for a disc), `[N, 6]`."""
        right, down = cover[:, 1:, 1:] - cover[:, 1:, :-1], cover[:, 1:, 1:] - cover[:, :-1, 1:]
        outline = ((right**2 + down**2 + 1e-6).sqrt() - 1e-3).sum((1, 2)).clamp(min=1)
        fill, roundness = self.area / (math.pi * self.major * self.minor), 4 * math.pi * self.area / outline**2
        sizes = [self.major.log(), self.minor.log(), (self.major / self.minor).log(), self.area.log()]
        return torch.stack([*sizes, fill, roundness], 1)


def _ticks(count: int, device: torch.device) -> torch.Tensor:
    """Places of the frame's pixels along one axis, in half axes of the grain."""
    return (torch.arange(count, device=device) + 0.5 - count / 2) * (2 * REACH / count)


def _means(values: torch.Tensor, size: int) -> torch.Tensor:
    """Means of `size` neighbours, `[N, n / size]` of `[N, n]`."""
    return nn.functional.avg_pool1d(values.unsqueeze(1), size).squeeze(1)


def _folded(values: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and distance of the two halves of a profile `[N, n]`, in steps of `size`, from the end to the middle."""
    half, other = values.shape[1] // 2 // size, values.flip(1)
    return _means((values + other) / 2, size)[:, :half], _means((values - other).abs() / 2, size)[:, :half]


def _outline(inside: torch.Tensor) -> list[torch.Tensor]:
    """Profiles of the width along the grain and of the length across it, and the bend of its middle line."""
    along, across = inside.mean(1) * REACH, inside.mean(2) * REACH
    middle = (inside * _ticks(HEIGHT, inside.device)[:, None]).sum(1) / inside.sum(1).clamp(min=0.5)
    bend = _means((middle + middle.flip(1)) / 2, 8)[:, 1 : WIDTH // 16]
    bend = (bend[:, :-1] - bend[:, -1:]).abs()
    # the outermost step of the width's profile is background
    return [_folded(along, 4)[0][:, 1:], _folded(along, 8)[1], _folded(across, 4)[0], bend]


def _appearance(colours: torch.Tensor, inside: torch.Tensor) -> list[torch.Tensor]:
    """Colour, its spread, steps and profiles inside the grain, and texture."""
    radius = (_ticks(WIDTH, inside.device)[None, :] ** 2 + _ticks(HEIGHT, inside.device)[:, None] ** 2).sqrt()
    core = inside * (radius < CORE)
    luma = sum(weight * colours[:, channel] for channel, weight in enumerate(LUMA))
    assert isinstance(luma, torch.Tensor)
    level = _mean(luma, core).clamp(min=1)
    red, green, blue = (_mean(colours[:, channel], core).clamp(min=1) for channel in range(3))
    relative, redness, blueness = (of / by for of, by in (
        (luma, level[:, None, None]), (colours[:, 0], luma.clamp(min=8)), (colours[:, 2], luma.clamp(min=8))
    ))  # fmt: skip
    spread = _deviation(relative, core)
    standard = ((relative - 1) / spread[:, None, None]).clamp(-4, 4)
    smooth = nn.functional.avg_pool2d(relative.unsqueeze(1), 5, 1, 2).squeeze(1)
    steps = [(relative[:, :, 1:] - relative[:, :, :-1]).abs(), (relative[:, 1:] - relative[:, :-1]).abs()]
    single = [
        *(level.log(), (red / green).log(), (blue / green).log(), spread.log()),
        *((_deviation(of, core) + 1e-3).log() for of in (redness, blueness)),
        *(_mean(standard**power, core) for power in (3, 4)),
        *((_mean(step, part) + 1e-3).log() for step, part in zip(steps, (core[:, :, 1:], core[:, 1:]), strict=True)),
        *((_deviation(of, core) + 1e-3).log() for of in (relative - smooth, smooth)),
        *(_mean(torch.sigmoid((relative - share) * 30), core) for share in LEVELS),
    ]
    for low, high in SHELLS:
        shell = inside * ((radius >= low) & (radius < high))
        blue_step = _mean(blueness, shell) - _mean(blueness, core)
        single += [_mean(relative, shell), _deviation(relative, shell), blue_step]
    along = (relative * core).sum(1) / core.sum(1).clamp(min=0.5)
    across = (relative * core).sum(2) / core.sum(2).clamp(min=0.5)
    return [torch.stack(single, 1), *_folded(along[:, 8:-8], 8), *_folded(across[:, 8:-8], 4)]


def _mean(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted mean over the frame, `[N]`."""
    return (values * weight).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1)


def _deviation(values: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted standard deviation over the frame, `[N]`, at least 0.001: below it rounding would show."""
    return (_mean((values - _mean(values, weight)[:, None, None]) ** 2, weight) + 1e-6).sqrt()
