"""Bring a grain into a canonical frame: turned level, at a fixed area, at a fixed mean colour.

How large a grain appears and what colour it has are properties of the camera and the light as much as of the grain,
and a network that may use them learns the capture session. Inside the model's graph this takes them away: the grain's
moments give its centre, direction and area, one bilinear resampling lays it into a small frame, and each channel is
divided by the grain's mean. The result does not change with rotation, shift, scale, colour gain, light or the
background's level. Every operation has an ONNX equivalent (opset 20), so the alignment travels with an export.
"""

from __future__ import annotations

import torch
from torch import nn

BLOCK = 4
"""Moments are taken over means of BLOCK x BLOCK pixels: cheap, and smooth in the grain's position."""

FILL = 0.96
"""The side of the square that has the grain's area, as a share of the frame's height. In a frame of 32 x 80 pixels an
ellipse then fits whole from aspect 1.2 to 5.3, and in one of 32 x 96 to 7.6; the five varieties have 1.3 to 5.6."""

COARSE_ROWS = 40
"""A frame of at most so many rows is sampled from means of 2 x 2 pixels, four samples to each of its own pixels, and
their mean is taken: bilinear sampling at less than half of a grain's pixels would skip some, and the nearer the camera,
the sharper the frame would be."""

MEAN_LEVEL = 1.57
"""The mean of each channel over the grain, after the division; the background is 0. (Grey level 200 of 255, where black
to white is 2 long, as in the ViT's normalised pixels.)"""

LEAST_CONTRAST = 0.04
"""Grain and background are taken to be at least this far apart: five grey levels of 255."""


class GrainAlignment(nn.Module):
    """Images of one grain to aligned frames; no learnt weight.

    Its constants are computed where they are used, not kept as buffers: transformers' `from_pretrained` leaves a buffer
    that is not in the file uninitialised, and in the file they would part it from the dense model's.
    """

    def __init__(self, image_size: int, height: int, width: int) -> None:
        """Prepare for square images of `image_size` pixels and frames of `height` x `width`."""
        super().__init__()
        self.side, self.height, self.width = image_size // BLOCK, height, width
        self.step = 2 if height <= COARSE_ROWS else 1

    def _powers(self, device: torch.device) -> torch.Tensor:
        """Compute 1, x, y, x^2, y^2 and xy of every block, x and y from -1 to 1: `[6, blocks]`."""
        place = (torch.arange(self.side, device=device) + 0.5) * (2 / self.side) - 1
        y, x = (axis.flatten() for axis in torch.meshgrid(place, place, indexing="ij"))
        return torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y])

    def _edge(self, powers: torch.Tensor) -> torch.Tensor:
        """Compute the weights `[blocks]` of the mean over the outermost blocks."""
        outermost = (powers[1:3].abs().amax(0) > 1 - 1.5 / self.side).float()
        return outermost / (4 * self.side - 4)

    @torch.no_grad()
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Align images, in float32 under mixed precision too.

        Args:
            images: float32 `[N, 3, H, W]`, white 2 above black. What is added to all levels changes nothing. Or, for a
                coarse frame, their means of 2 x 2 pixels.

        Returns:
            Frames, float32 `[N, 3, height, width]`: the background at 0, each channel's mean over the grain
            `MEAN_LEVEL`.
        """
        powers = self._powers(images.device)
        if images.shape[-1] * self.step > self.side * BLOCK:
            images = average(images, self.step)
        blocks = average(images, BLOCK // self.step).flatten(2)
        background = (blocks * self._edge(powers)).sum(-1)
        cover = _coverage(blocks.mean(1), background.mean(1, keepdim=True))
        grid = self._grid((cover.unsqueeze(1) * powers).sum(-1))
        # a frame may reach beyond the image: its border, which is background, goes on there, as padding_mode="border"
        # has it, which takes ONNX Runtime 2.5 times as long as a grid that ends within the outermost pixels' middles
        limit = 1 - 1.25 / images.shape[-1]
        frame = nn.functional.grid_sample(images, grid.clamp(-limit, limit), align_corners=False)
        frame = average(frame, self.step)
        mean = (blocks * cover.unsqueeze(1)).sum(-1) / cover.sum(1, keepdim=True).clamp(min=1e-3)
        return (frame - background[:, :, None, None]) * self._gain(mean - background)[:, :, None, None]

    def _gain(self, contrast: torch.Tensor) -> torch.Tensor:
        """Compute each channel's factor from the grain's mean above the background, both `[N, 3]`."""
        return MEAN_LEVEL / contrast.clamp(min=LEAST_CONTRAST)

    def _grid(self, sums: torch.Tensor) -> torch.Tensor:
        """Compute sampling positions: x and y, -1 to 1 from edge to edge, `[N, step * height, step * width, 2]`.

        Args:
            sums: of 1, x, y, x^2, y^2 and xy over the grain's blocks, `[N, 6]`.
        """
        area, x, y, xx, yy, xy = (value[:, :, None] for value in sums.split(1, dim=1))
        area = area.clamp(min=1e-3)
        x, y = x / area, y / area
        difference, twice = (xx - yy) / area - (x * x - y * y), 2 * (xy / area - x * y)
        spread = (difference**2 + twice**2).clamp(min=1e-12).sqrt()
        # half-angle formulas: the cosine is never negative, the sine has the covariance's sign
        cosine = ((1 + difference / spread).clamp(min=0) / 2).sqrt()
        sine = ((1 - difference / spread).clamp(min=0) / 2).sqrt() * torch.where(twice < 0, -1.0, 1.0)
        # the side of a square of the grain's area, in units in which the image's side is 2
        length = (area * (4.0 / self.side**2)).sqrt()
        down, across = (
            (torch.arange(samples, device=sums.device) - (samples - 1) / 2) / (FILL * self.step * self.height)
            for samples in (self.step * self.height, self.step * self.width)
        )
        down = down[:, None]
        return torch.stack(
            [x + length * (cosine * across - sine * down), y + length * (sine * across + cosine * down)], dim=-1
        )


def average(images: torch.Tensor, size: int) -> torch.Tensor:
    """Compute the means of `size` x `size` pixels: `[N, C, H / size, W / size]` of `[N, C, H, W]`, in the same type.

    As a convolution, outside mixed precision: ONNX Runtime's pooling takes two to three times as long.
    """
    if size == 1:
        return images
    weight = images.new_full((images.shape[1], 1, size, size), 1 / size**2)
    with torch.autocast(images.device.type, enabled=False):
        return nn.functional.conv2d(images, weight, stride=size, groups=images.shape[1])


def _coverage(level: torch.Tensor, background: torch.Tensor) -> torch.Tensor:
    """Compute how much of each block is grain, 0 to 1, `[N, blocks]`.

    0 up to a tenth of the way from the background's level `[N, 1]` to the brightest block's, 1 from half of it.
    """
    contrast = (level.amax(1, keepdim=True) - background).clamp(min=LEAST_CONTRAST)
    return ((level - background) / contrast * 2.5 - 0.25).clamp(0, 1)
