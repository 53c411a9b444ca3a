"""From logits to an answer: calibrated probabilities, and the refusal of what is no single grain of rice.

A model carries its `Decision` in its own metadata (the ONNX file's, a plan's manifest, the server's model
configuration, `decision.json` beside a checkpoint), so every backend gives the same confidence and refuses the same
images. `rice_lib.cli.calibrate` makes one. Numpy alone: the prediction command and the serving environment import this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rice_lib.contract import features as measuring
from rice_lib.common.errors import RiceError
from rice_lib.contract.features import COLUMN, MEASURES

UNKNOWN = "unknown"
"""The label of an image that is refused."""

FILE = "decision.json"
"""Its name beside a checkpoint's weights."""

KEY = "decision"
"""Its key in an ONNX file's metadata, and among the parameters of a server's model configuration."""

NOT_A_GRAIN = "not a single grain"
UNLIKE = "unlike the training images"
"""How the reasons begin; why follows in brackets."""

STRUCTURE = ("area", "rim", "objects", "solidity", "fill")
"""Measures that say whether there is one grain, whole, on dark ground: each has limits of its own, looked at in this
order."""

LOOK = tuple(name for name in MEASURES if name not in ("rim", "area", "objects"))
"""Measures that say what the grain looks like: compared with those of its variety, all together."""

_LOOK_COLUMNS = [COLUMN[name] for name in LOOK]


@dataclass(frozen=True)
class Cluster:
    """Images of one variety that look alike: a normal distribution of their `LOOK` measures."""

    mean: np.ndarray
    """float64 `[L]`."""
    root: np.ndarray
    """Lower triangular W, float64 `[L, L]`, with W W' the inverse of the covariance."""

    def offsets(self, look: np.ndarray) -> np.ndarray:
        """What each measure adds to the squared Mahalanobis distance, float64 `[N, L]` of `[N, L]`."""
        apart = look - self.mean
        return apart * (apart @ self.root @ self.root.T)

    def distances(self, look: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances, float64 `[N]` of `[N, L]`."""
        return (((look - self.mean) @ self.root) ** 2).sum(axis=1)


@dataclass(frozen=True)
class Refusal:
    """The rule by which images are refused.

    An image is "not a single grain" where a measure of its structure is outside its limits, and "unlike the training
    images" where its look is further than `farthest` from every cluster of the variety that the model tells: the
    class-conditional Mahalanobis distance of Lee, Lee, Lee & Shin (2018, arXiv:1807.03888), taken on plain measures
    of the image in place of a network's features.
    """

    limits: Mapping[str, tuple[float, float]]
    """Lowest and highest allowed value of each of `STRUCTURE`."""
    clusters: Sequence[Sequence[Cluster]]
    """Of each class, in the order of the logits."""
    farthest: float
    """Largest allowed squared distance."""

    def distances(self, logits: np.ndarray, measures: np.ndarray) -> np.ndarray:
        """Squared distance of each image from the nearest cluster of the variety told, float64 `[N]`."""
        look, told = measures[:, _LOOK_COLUMNS].astype(np.float64), logits.argmax(axis=1)
        distances = np.empty(len(look))
        for number in np.unique(told):
            of = told == number
            distances[of] = np.min([cluster.distances(look[of]) for cluster in self.clusters[number]], axis=0)
        return distances

    def reasons(self, logits: np.ndarray, measures: np.ndarray) -> list[str | None]:
        """See `Decision.reasons`."""
        reasons: list[str | None] = [None] * len(measures)
        # NaN, which only damaged measures hold, is on neither side: it is refused
        for row in np.flatnonzero(~(self.distances(logits, measures) <= self.farthest)):
            reasons[row] = f"{UNLIKE} ({self._oddest(int(logits[row].argmax()), measures[row])})"
        for name in reversed(STRUCTURE):  # what stands first in the list is told where several apply
            low, high = self.limits[name]
            values = measures[:, COLUMN[name]]
            for row in np.flatnonzero(~((values >= low) & (values <= high))):
                reasons[row] = f"{NOT_A_GRAIN} ({_explained(name, float(values[row]), low)})"
        return reasons

    def _oddest(self, number: int, measures: np.ndarray) -> str:
        look = measures[None, _LOOK_COLUMNS].astype(np.float64)
        nearest = min(self.clusters[number], key=lambda cluster: float(cluster.distances(look)[0]))
        return f"its {LOOK[int(nearest.offsets(look)[0].argmax())]}"


@dataclass(frozen=True)
class Decision:
    """How one model's logits are read; measured on the validation split by notebook 04."""

    temperature: float = 1.0
    """Logits are divided by this before the softmax (Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599)."""
    refusal: Refusal | None = None
    """None refuses nothing."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What it was measured on: plain JSON values, for people."""

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Calibrated probabilities, float64 `[N, classes]`; rows sum to 1."""
        scaled = logits.astype(np.float64) / self.temperature
        shifted = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)

    def measure(self, pixels: np.ndarray) -> np.ndarray:
        """What the refusal looks at in one image: float32 `[measures]` of uint8 `[224, 224, 3]`."""
        return measuring.measure(pixels)

    def reasons(self, logits: np.ndarray, measures: np.ndarray) -> Sequence[str | None]:
        """For each image why it is refused, or None where it is told.

        Args:
            logits: float32 `[N, classes]`.
            measures: `measure` of each image, float32 `[N, measures]`.
        """
        return [None] * len(logits) if self.refusal is None else self.refusal.reasons(logits, measures)

    def to_json(self) -> str:
        """The whole as one line of JSON, about eight kilobytes: means keep five digits, roots four."""
        values: dict[str, Any] = {"temperature": _short(self.temperature), "about": dict(self.about)}
        if self.refusal is not None:
            lower = np.tril_indices(len(LOOK))
            values["refusal"] = {
                "measures": MEASURES,
                "limits": {name: [_short(limit) for limit in pair] for name, pair in self.refusal.limits.items()},
                "look": LOOK,
                "clusters": [
                    [{"mean": _shorts(c.mean, 5), "root": _shorts(c.root[lower], 4)} for c in of_class]
                    for of_class in self.refusal.clusters
                ],
                "farthest": _short(self.refusal.farthest),
            }
        return json.dumps(values, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, where: str = "the decision", classes: int | None = None) -> Decision:
        """Read what `to_json` wrote.

        Args:
            text: JSON.
            where: what holds it, for the error.
            classes: of the model; None does not check.

        Raises:
            RiceError: damaged, of another version's measures, or for another number of classes.
        """
        try:
            values = json.loads(text)
            temperature = float(values["temperature"])
            if not 0 < temperature < math.inf:
                raise ValueError("temperature")
            refusal = None if values.get("refusal") is None else _read_refusal(values["refusal"])
            decision = cls(temperature, refusal, dict(values.get("about", {})))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise RiceError(f"{where}: the decision is damaged; {_AGAIN}") from None
        if refusal is not None and classes is not None and len(refusal.clusters) != classes:
            raise RiceError(
                f"{where}: a decision for {len(refusal.clusters)} classes, the model has {classes}; {_AGAIN}"
            )
        return decision


_AGAIN = "measure it anew (python -m rice_lib calibrate MODEL --profile PROFILE)"


def _read_refusal(values: Mapping[str, Any]) -> Refusal:
    if tuple(values["measures"]) != MEASURES or tuple(values["look"]) != LOOK:
        raise ValueError("other measures than this version takes")
    limits = {name: (float(low), float(high)) for name, (low, high) in values["limits"].items()}
    clusters = [[_read_cluster(cluster) for cluster in of_class] for of_class in values["clusters"]]
    farthest = float(values["farthest"])
    if set(limits) != set(STRUCTURE) or not clusters or not all(clusters) or not farthest > 0:
        raise ValueError("incomplete")
    return Refusal(limits, clusters, farthest)


def _read_cluster(values: Mapping[str, Any]) -> Cluster:
    mean = np.array(values["mean"], np.float64)
    root = np.zeros((len(LOOK), len(LOOK)))
    root[np.tril_indices(len(LOOK))] = values["root"]
    if mean.shape != (len(LOOK),) or not (np.isfinite(mean).all() and np.isfinite(root).all()):
        raise ValueError("a cluster of another shape")
    return Cluster(mean, root)


def _explained(name: str, value: float, low: float) -> str:
    """Why a measure of the structure refuses, in words."""
    if name == "area":
        return "nothing of a grain's size on the ground" if value < low else "more than a grain on the ground"
    if name == "rim":
        return "the ground is bright" if value > 0.5 else "it touches the border"
    if name == "objects":
        return "several objects" if value > 1 else "there are holes in it"
    return "several objects, or an outline that no grain has"


def _short(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")


def _shorts(values: np.ndarray, digits: int) -> list[float]:
    return [_short(value, digits) for value in values]
