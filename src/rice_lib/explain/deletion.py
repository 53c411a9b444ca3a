"""How faithful a map is: black what it calls relevant, and see how far the told variety's probability falls.

The deletion test (Petsiuk, Das & Saenko 2018, arXiv:1806.07421), against the same number of patches, or the same area
of grain, drawn at random. Only patches that hold grain and that the model attends to take part: to black the ground
changes nothing, and would make any map look good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rice_lib.backends.predictor import probabilities
from rice_lib.explain.explainers import Explanation

GRAIN_LEVEL = 40
"""A pixel with a channel above this is grain: the ground of the training images stays below 20, JPEG's noise
included."""

Budget = Literal["patches", "area"]


@dataclass(frozen=True)
class Deletion:
    """What blacking a share of the grain did, as means over the images."""

    share: float
    relevant: float
    """Fall of the told variety's probability where the most relevant patches are blacked."""
    random: float
    """The same with patches drawn at random (mean of the draws)."""
    relevant_changed: float
    """Share of the images then told otherwise."""
    random_changed: float

    def shown(self) -> dict[str, float]:
        """The four figures, named as a table's reader wants them."""
        return {
            "fall, most relevant": self.relevant,
            "fall, at random": self.random,
            "told otherwise, most relevant": self.relevant_changed,
            "told otherwise, at random": self.random_changed,
        }


def deletion_test(
    logits: Callable[[np.ndarray], np.ndarray],
    pixels: np.ndarray,
    explanation: Explanation,
    shares: Sequence[float] = (0.1, 0.2, 0.3),
    *,
    budget: Budget = "patches",
    draws: int = 3,
    seed: int = 83,
) -> list[Deletion]:
    """Measure a map.

    Args:
        logits: the model (`Predictor.logits`).
        pixels: the images, uint8 `[N, 224, 224, 3]`.
        explanation: of these images, in this order.
        shares: how much to black, of each image's patches or area of grain.
        budget: what a share is of: the number of patches, or the grain's area in pixels. A patch inside the grain
            holds more of it than one at its edge; with equal area, a map is not praised for naming full patches.
        draws: random draws.
        seed: of the draws.
    """
    side = explanation.relevance.shape[1]
    area = grain_area(pixels, side) * explanation.seen.reshape(len(pixels), -1)
    cost = (area > 0).astype(np.float64) if budget == "patches" else area.astype(np.float64)
    told = explanation.logits.argmax(1)
    before = _of_told(probabilities(explanation.logits), told)
    rng = np.random.default_rng(seed)

    def effect(order: np.ndarray, share: float) -> tuple[float, float]:
        after = logits(black_out(pixels, first_patches(order, cost, share)))
        return float((before - _of_told(probabilities(after), told)).mean()), float((after.argmax(1) != told).mean())

    relevance = explanation.relevance.reshape(len(pixels), -1)
    found = []
    for share in shares:
        fall, changed = effect(relevance, share)
        chance = np.mean([effect(rng.random(relevance.shape), share) for _ in range(draws)], axis=0)
        found.append(Deletion(share, fall, float(chance[0]), changed, float(chance[1])))
    return found


def first_patches(order: np.ndarray, cost: np.ndarray, share: float) -> np.ndarray:
    """The patches of highest `order` whose cost adds up nearest to a share of all, bool `[N, patches]`.

    Args:
        order: float `[N, patches]`.
        cost: at least 0, `[N, patches]`; a patch of no cost is never taken.
        share: in [0, 1].
    """
    ranked = np.argsort(-np.where(cost > 0, order, -np.inf), axis=1, kind="stable")
    spent = np.cumsum(np.take_along_axis(cost, ranked, 1), axis=1)
    # a patch is taken if that brings the sum nearer to the budget
    taken = spent - np.take_along_axis(cost, ranked, 1) / 2 <= share * spent[:, -1:]
    chosen = np.zeros(cost.shape, bool)
    np.put_along_axis(chosen, ranked, taken, 1)
    return chosen & (cost > 0)


def grain_area(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels of grain in each patch, int `[N, side * side]`, of uint8 `[N, H, W, 3]`."""
    count, height, width, _ = pixels.shape
    bright = (pixels.max(-1) > GRAIN_LEVEL).reshape(count, side, height // side, side, width // side)
    return bright.sum((2, 4)).reshape(count, -1)


def black_out(pixels: np.ndarray, patches: np.ndarray) -> np.ndarray:
    """A copy of uint8 `[N, H, W, 3]` with the patches of bool `[N, side * side]` blacked."""
    side = round(patches.shape[1] ** 0.5)
    mask = patches.reshape(-1, side, side).repeat(pixels.shape[1] // side, 1).repeat(pixels.shape[2] // side, 2)
    return np.where(mask[..., None], np.uint8(0), pixels)


def _of_told(scores: np.ndarray, told: np.ndarray) -> np.ndarray:
    return np.take_along_axis(scores, told[:, None], 1)[:, 0]
