"""`Predictor`: the one interface to a model in any form, and what each form reads from its own metadata.

uint8 pixels in, float32 logits out, with the labels and the decision that the model itself carries.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import suppress
from typing import Self

import numpy as np

from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import Decision
from rice_lib.contract.decode import IMAGE_SIZE

MAX_BATCH = 256
"""Most images of one call where neither the model nor the caller says less; throughput stops growing before it."""

MIN_SHARE = 8
"""Images of a batch that are worth a share of their own: with fewer, one core alone is not fully used; with twice as
many, what the model computes on the way no longer fits its cache (1.65 ms an image in place of 1.5)."""


class Predictor(ABC):
    """A model that classifies images.

    A backend sets `name`, `labels` and `max_batch`, and implements `_forward`. Use it as a context manager, or call
    `close`.
    """

    name: str
    """Engine and the device it really runs on, as `onnxruntime/CPU`."""
    labels: tuple[str, ...]
    """Class names in the order of the logits, from the model's own metadata."""
    max_batch: int
    """Most images of one call to the engine."""
    processes: int = 1
    """Processes that share the files of a large run, each with a model of one thread; 1: this one alone."""
    decision: Decision = Decision()
    """How the logits are read, from the model's own metadata; where it carries nothing of the kind, as they are."""

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Compute the logits of images under the image contract (`rice_lib.contract.decode`).

        Args:
            pixels: uint8 RGB `[N, 224, 224, 3]`; any N, taken to the engine `max_batch` at a time.

        Returns:
            float32 `[N, len(labels)]`.

        Raises:
            ValueError: another shape or dtype.
            RiceError: the engine failed.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
            raise ValueError(f"expected uint8 [N, {IMAGE_SIZE}, {IMAGE_SIZE}, 3], got {pixels.dtype} {pixels.shape}")
        if not len(pixels):
            return np.empty((0, len(self.labels)), np.float32)
        return self._forward_all(np.ascontiguousarray(pixels))

    def _forward_all(self, pixels: np.ndarray) -> np.ndarray:
        """Compute float32 logits of any number of images but none, `max_batch` at a time."""
        parts = range(0, len(pixels), self.max_batch)
        return np.concatenate([self._forward(pixels[i : i + self.max_batch]) for i in parts])

    @abstractmethod
    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        """Compute float32 logits of 1 to `max_batch` images, C-contiguous uint8."""

    def close(self) -> None:  # noqa: B027  (most backends hold nothing that needs giving back)
        """Give back what the engine holds (memory, connections)."""

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close."""
        self.close()


def parse_labels(text: str | None, where: str) -> tuple[str, ...]:
    """Read class names from the JSON list that a model's metadata holds; raises `RiceError` naming `where`."""
    labels = None
    with suppress(ValueError):
        labels = json.loads(text or "")
    if not (isinstance(labels, list) and labels and all(isinstance(name, str) for name in labels)):
        raise RiceError(f"{where} holds no labels: not a model of this project (rice export makes one)")
    return tuple(labels)


def parse_decision(text: str | None, where: str, labels: Sequence[str]) -> Decision:
    """Read the decision in a model's metadata, where there is one; raises `RiceError` naming `where` if damaged."""
    try:
        return Decision.from_json(text, len(labels)) if text else Decision()
    except ValueError as error:
        raise RiceError(f"{where}: {error}") from None


def first_line(error: BaseException) -> str:
    """Give the first line of an error's message, or the name of its class."""
    return next(iter(str(error).splitlines()), type(error).__name__)
