"""The deletion test: how far the probability falls without the patches that a map marks, against patches at random.

After Petsiuk, Das & Saenko 2018 (arXiv:1806.07421). Only patches that hold grain take part: blacking out background
changes nothing, and would make any map look good.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rice_lib.contract.prediction import Classifier
from rice_lib.explain.occlusion import black_out, grain_area, probabilities

Budget = Literal["patches", "area"]


@dataclass(frozen=True)
class Deletion:
    """What blacking out a share of the grain did, as means over the images."""

    share: float
    relevant: float  # fall of the predicted class's probability without the most relevant patches
    random: float  # the same without patches drawn at random, mean of the draws
    relevant_changed: float  # share of the images whose predicted class then is another
    random_changed: float


def deletion_test(
    predictor: Classifier,
    pixels: np.ndarray,
    relevance: np.ndarray,
    shares: Sequence[float] = (0.1, 0.2, 0.3),
    *,
    budget: Budget = "patches",
    draws: int = 3,
    seed: int = 83,
) -> list[Deletion]:
    """Measure the maps `relevance`, float `[N, GRID, GRID]`, of images, uint8 `[N, 224, 224, 3]`, at each share.

    A share is of the grain's number of patches, or, as `budget`, of its area in pixels. A patch inside the grain holds
    more of it than one at its edge; with equal area, a map is not praised for naming full patches. The patches at
    random are drawn `draws` times.

    Raises `RiceError` where the engine failed.
    """
    cost = grain_area(pixels) if budget == "area" else grain_area(pixels) > 0
    before = probabilities(predictor, pixels)
    images, predicted = np.arange(len(pixels)), before.argmax(axis=1)
    rng = np.random.default_rng(seed)

    def effect(order: np.ndarray, share: float) -> tuple[float, float]:
        after = probabilities(predictor, black_out(pixels, first_patches(order, cost, share)))
        falls = before[images, predicted] - after[images, predicted]
        return float(falls.mean()), float((after.argmax(axis=1) != predicted).mean())

    order = relevance.reshape(len(pixels), -1)
    found = []
    for share in shares:
        fall, changed = effect(order, share)
        chance = np.mean([effect(rng.random(order.shape), share) for _ in range(draws)], axis=0)
        found.append(Deletion(share, fall, float(chance[0]), changed, float(chance[1])))
    return found


def first_patches(order: np.ndarray, cost: np.ndarray, share: float) -> np.ndarray:
    """Choose the patches of highest `order` whose cost adds up nearest to a share, in [0, 1], of all.

    Takes float `[N, patches]` and costs of at least 0; a patch of no cost is never chosen. Gives bool `[N, patches]`.
    """
    ranked = np.argsort(-np.where(cost > 0, order, -np.inf), axis=1, kind="stable")
    costs = np.take_along_axis(cost, ranked, axis=1).astype(np.float64)
    spent = costs.cumsum(axis=1)
    # a patch is chosen if that brings the sum nearer to the budget
    chosen = np.zeros(cost.shape, bool)
    np.put_along_axis(chosen, ranked, spent - costs / 2 <= share * spent[:, -1:], axis=1)
    return chosen & (cost > 0)
