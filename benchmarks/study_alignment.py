"""Measure what fixing the size and the colour of a grain brings on a capture session that training never saw.

Grains of the session split are laid level into small frames, with and without a fixed area and a fixed mean colour, and
a small CNN is trained on each kind of frame from random weights with nothing but mirroring as augmentation. It trains
in about a minute on a core, so that every row can have several seeds.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import study
import torch
from torch import nn

from rice_lib.backends.align import GrainAlignment
from rice_lib.backends.vit import normalise
from rice_lib.common.errors import run_command
from rice_lib.data.loading import Examples, open_examples
from rice_lib.data.synthetic import VARIETIES
from rice_lib.models.baseline import thin

HEIGHT, WIDTH = 32, 80
USUAL_AREA = 0.15
"""Share of the image that a grain covers where its area is not fixed: the frame then shows it at its own size."""

JASMINE = VARIETIES.index("Jasmine")
CASTS = {
    "as photographed": (1, 1, 1),
    "red x 0.85": (0.85, 1, 1),
    "blue x 0.78": (1, 1, 0.78),
    "light x 0.7": (0.7,) * 3,
}
VARIANTS = {
    "size and colour fixed": (True, True),
    "size fixed": (True, False),
    "colour fixed": (False, True),
    "neither": (False, False),
}


class Frames(GrainAlignment):
    """The alignment, with its fixed area and its fixed colour each to be left out."""

    def __init__(self, fixed_size: bool, fixed_colour: bool) -> None:
        super().__init__(224, HEIGHT, WIDTH)
        self.fixed_size, self.fixed_colour = fixed_size, fixed_colour

    def _grid(self, sums: torch.Tensor) -> torch.Tensor:
        if not self.fixed_size:  # moments of a grain of the usual area: their ratios, and so its axes, stay
            sums = sums * (USUAL_AREA * self.side**2 / sums[:, :1].clamp(min=1e-3))
        return super()._grid(sums)

    def _gain(self, contrast: torch.Tensor) -> torch.Tensor:
        return super()._gain(contrast) if self.fixed_colour else torch.ones_like(contrast)

    def of(self, examples: Examples, gains: Sequence[float] = (1, 1, 1)) -> torch.Tensor:
        """Lay all images into frames, each channel multiplied first: float32 `[n, 3, HEIGHT, WIDTH]`."""
        parts = []
        for start in range(0, len(examples), 64):
            pixels = np.rint(examples.batch(slice(start, start + 64)) * np.array(gains)).astype(np.uint8)
            parts.append(self(normalise(torch.from_numpy(pixels)))[0])
        return torch.cat(parts)


def network(width: int = 24) -> nn.Module:
    """Build six convolutions, mean and maximum over the frame, and a linear layer: 0.13 M parameters."""

    def block(given: int, out: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(given, out, 3, stride, 1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]

    layers = []
    for given, out in ((3, width), (width, 2 * width), (2 * width, 4 * width)):
        layers += [*block(given, out, 2), *block(out, out, 1)]
    return nn.Sequential(*layers, _Pooled(), nn.Dropout(0.2), nn.Linear(8 * width, len(VARIETIES)))


class _Pooled(nn.Module):
    """Mean and maximum over the frame: `[n, c, h, w]` to `[n, 2 c]`."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values.mean((2, 3)), values.amax((2, 3))], dim=1)


def train(frames: torch.Tensor, labels: torch.Tensor, steps: int, seed: int) -> nn.Module:
    """Train on mirrored frames: AdamW at 3e-3, warm-up and cosine, batches of 128."""
    torch.manual_seed(seed)
    model = network().train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        chosen = torch.randint(len(frames), (128,))
        batch = frames[chosen]
        for axis in (2, 3):
            batch = torch.where(torch.rand(128, 1, 1, 1) < 0.5, batch, batch.flip(axis))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch), labels[chosen], label_smoothing=0.02).backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def measure(model: nn.Module, frames: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Compute accuracy and the recall of Jasmine."""
    with torch.inference_mode():
        correct = torch.cat([model(part).argmax(1) for part in frames.split(256)]) == labels
    return {
        "accuracy": float(correct.float().mean()),
        "jasmine_recall": float(correct[labels == JASMINE].float().mean()),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Train and measure every variant; returns the exit status."""
    command = study.parser(__doc__)
    command.add_argument("--images", type=int, default=10_000, help="training images (default: %(default)s)")
    command.add_argument("--tests", type=int, default=2000, help="images of each test (default: %(default)s)")
    command.add_argument("--steps", type=int, default=400, help="training steps (default: %(default)s)")
    command.add_argument("--seeds", type=int, default=1, help="trainings of each row (default: %(default)s)")
    arguments = command.parse_args(argv)
    torch.set_num_threads(1)
    run = study.open_run(arguments)
    sizes = {"train": arguments.images, "validation": arguments.tests, "test": arguments.tests}
    parts = {part: thin(open_examples(run.paths, "session", part), n, run.params.seed) for part, n in sizes.items()}
    labels = {part: torch.from_numpy(examples.labels) for part, examples in parts.items()}
    rows = []
    for variant, fixed in VARIANTS.items():
        frames = Frames(*fixed)
        training, unseen = frames.of(parts["train"]), frames.of(parts["test"])
        shifted = {name: frames.of(parts["validation"], gains) for name, gains in CASTS.items()}
        for seed in range(arguments.seeds):
            started = time.process_time()
            model = train(training, labels["train"], arguments.steps, seed)
            row: dict[str, Any] = {"variant": variant, "seed": seed, "cpu_seconds": time.process_time() - started}
            row["unseen session"] = measure(model, unseen, labels["test"])
            for name, images in shifted.items():
                row[f"first session, {name}"] = measure(model, images, labels["validation"])
            rows.append(row)
            print(line(row), flush=True)
            study.write(arguments, run, "alignment", rows)
    return 0


def line(row: Mapping[str, Any]) -> str:
    """One row of the table for people: accuracies, and the recall of Jasmine in the unseen session."""
    accuracies = [f"{name} {found['accuracy']:.4f}" for name, found in row.items() if isinstance(found, dict)]
    jasmine = row["unseen session"]["jasmine_recall"]
    return f"{row['variant']:<22} seed {row['seed']}  {'  '.join(accuracies)}  (unseen Jasmine {jasmine:.3f})"


if __name__ == "__main__":
    run_command(main)
