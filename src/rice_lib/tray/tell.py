"""The grains of a tray told by a model: each at one scale, or at both where the millimetres are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rice_lib.backends.predictor import Predictor
from rice_lib.contract.decision import Decision
from rice_lib.contract.features import extract_features
from rice_lib.contract.prediction import UNKNOWN
from rice_lib.tray.find import Grain
from rice_lib.tray.frame import frame
from rice_lib.tray.scale import View

NO_VARIETY = "unlike the training images (no variety at this size)"

LEAST = 0.5
"""Where millimetres are known: a grain is unknown where no variety has more than this at a scale of its own. What the
model is surest of may be a variety that was never photographed at that scale."""


@dataclass(frozen=True)
class Told:
    """What the model says of one grain."""

    scores: dict[str, float]
    """Of every variety, 0 to 1."""
    reason: str | None = None
    """Why it is refused."""

    @property
    def label(self) -> str:
        """The likeliest variety, or `unknown`."""
        return UNKNOWN if self.reason is not None else max(self.scores, key=self.scores.__getitem__)

    @property
    def confidence(self) -> float | None:
        """Score of the label; None of what is unknown."""
        return self.scores.get(self.label)


def tell(
    predictor: Predictor,
    image: np.ndarray,
    grains: Sequence[Grain],
    gains: np.ndarray,
    views: Sequence[View],
    *,
    reject: bool = True,
    batch_size: int = 32,
) -> list[Told]:
    """Tell every grain.

    Args:
        predictor: the model.
        image: the tray, uint8 RGB `[H, W, 3]`.
        grains: those found on it.
        gains: what each grain's brightness is multiplied by, `[len(grains)]`.
        views: the scales to show them at.
        reject: whether what the model's decision refuses is unknown.
        batch_size: grains of one call to the model.
    """
    told: list[Told] = []
    for start in range(0, len(grains), batch_size):
        batch = slice(start, start + batch_size)
        seen = [_look(predictor, image, grains[batch], gains[batch], view, reject=reject) for view in views]
        told += [_join([look[i] for look in seen], views, reject) for i in range(len(seen[0]))]
    return told


def _look(
    predictor: Predictor, image: np.ndarray, grains: Sequence[Grain], gains: np.ndarray, view: View, *, reject: bool
) -> list[Told]:
    pixels = np.stack([frame(image, grain, view.factor, gain) for grain, gain in zip(grains, gains, strict=True)])
    logits, decision = predictor.logits(pixels), predictor.decision
    scores = (decision or Decision()).probabilities(logits)
    reasons: Sequence[str | None] = [None] * len(grains)
    if decision is not None and reject:
        reasons = decision.rejections(logits, np.stack([extract_features(own) for own in pixels]))
    return [
        Told(dict(zip(predictor.labels, own, strict=True)), reason)
        for own, reason in zip(scores.tolist(), reasons, strict=True)
    ]


def _join(seen: Sequence[Told], views: Sequence[View], reject: bool) -> Told:
    """One answer of those at each scale: a variety has the best score it gets at a scale of its own.

    A variety of a model that no view names is looked for at every scale.
    """
    if len(seen) == 1:
        return seen[0]
    named = {name for view in views for name in view.varieties or ()}
    scores = dict.fromkeys(seen[0].scores, 0.0)
    for told, view in zip(seen, views, strict=True):
        if told.reason is None:
            for name, score in told.scores.items():
                if view.varieties is None or name in view.varieties or name not in named:
                    scores[name] = max(scores[name], score)
    reason = None
    if reject and max(scores.values()) < LEAST:
        refused = [told.reason for told in seen if told.reason is not None]
        reason = refused[0] if len(refused) == len(seen) else NO_VARIETY
    total = max(1.0, sum(scores.values()))
    return Told({name: score / total for name, score in scores.items()}, reason)
