"""How a model's logits become a prediction: calibrated probabilities, and the rejection rule.

A model carries its `Decision` in its own metadata (the ONNX file's, a plan's manifest, the server's model
configuration, `decision.json` beside a checkpoint), so every backend gives the same confidence and rejects the same
images. `rice calibrate` measures one. numpy alone: the prediction command and the serving environment import this.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from rice_lib.contract.features import COLUMN, FEATURES

FILE = "decision.json"
"""Its name beside a checkpoint's weights."""

KEY = "decision"
"""Its key in an ONNX file's metadata, and among the parameters of a server's model configuration."""

NOT_A_GRAIN = "not a single grain"
UNLIKE = "unlike the training images"
"""How a rejection's reason begins; the detail follows in brackets."""

STRUCTURE = ("area", "rim", "objects", "solidity", "fill")
"""Features that say whether there is one whole grain on a dark background. Each has limits of its own, checked in this
order."""

APPEARANCE = tuple(name for name in FEATURES if name not in ("rim", "area", "objects"))
"""Features that say what the grain looks like: compared jointly with those of its class."""

KINDS = {
    "its size": ("length", "width"),
    "its shape": ("solidity", "fill", "end weight", "side weight", "lopsidedness"),
    "its brightness": ("luma",),
    "its colour": ("red less green", "blue less green", "hue spread"),
    "its surface": ("luma spread", "grain"),
}
"""What a person can see of `APPEARANCE`, and its features."""

CAUSES = {
    "its size": "another distance from the camera, or another variety",
    "its shape": "broken, overlapping, or another variety",
    "its brightness": "another light or exposure",
    "its colour": "another light or white balance, or coloured rice",
    "its surface": "out of focus, noisy, or another light",
}

_APPEARANCE_COLUMNS = [COLUMN[name] for name in APPEARANCE]


@dataclass(frozen=True)
class Cluster:
    """Images of one class that look alike: a normal distribution of their `APPEARANCE` features."""

    mean: np.ndarray
    """float64 `[A]`."""
    root: np.ndarray
    """Lower triangular W, float64 `[A, A]`, with W W' the inverse of the covariance."""

    def contributions(self, appearance: np.ndarray) -> np.ndarray:
        """Compute what each feature adds to the squared Mahalanobis distance, float64 `[N, A]` of `[N, A]`."""
        offset = appearance - self.mean
        return offset * (offset @ self.root @ self.root.T)

    def distances(self, appearance: np.ndarray) -> np.ndarray:
        """Compute squared Mahalanobis distances, float64 `[N]` of `[N, A]`."""
        return (((appearance - self.mean) @ self.root) ** 2).sum(axis=1)


@dataclass(frozen=True)
class RejectionRule:
    """The rule that rejects images.

    An image is "not a single grain" where a `STRUCTURE` feature is outside its limits, and "unlike the training
    images" where its appearance is further than `max_distance` from every cluster of the predicted class: the
    class-conditional Mahalanobis distance of Lee, Lee, Lee & Shin (2018, arXiv:1807.03888), on plain image features in
    place of a network's.
    """

    limits: Mapping[str, tuple[float, float]]
    """Lowest and highest allowed value of each of `STRUCTURE`."""
    clusters: Sequence[Sequence[Cluster]]
    """Of each class, in the order of the logits."""
    max_distance: float
    """Largest allowed squared distance."""

    def distances(self, logits: np.ndarray, features: np.ndarray) -> np.ndarray:
        """Compute each image's squared distance from the nearest cluster of its predicted class, float64 `[N]`."""
        appearance, predicted = features[:, _APPEARANCE_COLUMNS].astype(np.float64), logits.argmax(axis=1)
        distances = np.empty(len(appearance))
        for number in set(predicted.tolist()):  # np.unique would import numpy.ma, a sixth of the command's start
            rows = predicted == number
            distances[rows] = np.min([cluster.distances(appearance[rows]) for cluster in self.clusters[number]], axis=0)
        return distances

    def reasons(self, logits: np.ndarray, features: np.ndarray) -> list[str | None]:
        """See `Decision.rejections`."""
        reasons: list[str | None] = [None] * len(features)
        # NaN, which only damaged features hold, is on neither side: it is rejected
        for row in np.flatnonzero(~(self.distances(logits, features) <= self.max_distance)):
            reasons[row] = f"{UNLIKE} ({self._most_unusual(int(logits[row].argmax()), features[row])})"
        for name in reversed(STRUCTURE):  # where several apply, the first of the list is given
            low, high = self.limits[name]
            values = features[:, COLUMN[name]]
            for row in np.flatnonzero(~((values >= low) & (values <= high))):
                reasons[row] = f"{NOT_A_GRAIN} ({_structure_fault(name, float(values[row]), low)})"
        return reasons

    def _most_unusual(self, number: int, features: np.ndarray) -> str:
        """Name what adds most to the distance; colour only where size and shape alone would not be rejected."""
        appearance = features[None, _APPEARANCE_COLUMNS].astype(np.float64)
        nearest = min(self.clusters[number], key=lambda cluster: float(cluster.distances(appearance)[0]))
        added = dict(zip(APPEARANCE, nearest.contributions(appearance)[0].tolist(), strict=True))
        by_kind = {kind: sum(added[name] for name in names) for kind, names in KINDS.items()}
        outline = {kind: by_kind[kind] for kind in ("its size", "its shape")}
        kind = max(outline if sum(outline.values()) > self.max_distance else by_kind, key=by_kind.__getitem__)
        return f"{kind}: {CAUSES[kind]}"


@dataclass(frozen=True)
class ImageScale:
    """The one scale at which a model's training images show their grains, where they were cut at one."""

    unit: str
    """`mm`, or `px`: a pixel of the photographs they were cut from."""
    per_pixel: float
    """Units to a pixel of the 250-pixel frame (`rice_lib.tray.frame`)."""


@dataclass(frozen=True)
class Decision:
    """How one model's logits are read; measured on the validation split by notebook 04."""

    temperature: float = 1.0
    """Logits are divided by this before the softmax (Guo, Pleiss, Sun & Weinberger 2017, arXiv:1706.04599)."""
    rejection: RejectionRule | None = None
    """None rejects nothing."""
    about: Mapping[str, Any] = field(default_factory=dict)
    """What it was measured on: plain JSON values, for people."""
    scale: ImageScale | None = None
    """Of the training images; None where nothing says so."""

    @property
    def rejects(self) -> bool:
        """Whether there is a rejection rule; without one every image is given a class."""
        return self.rejection is not None

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Compute calibrated probabilities, float64 `[N, classes]`; rows sum to 1."""
        scaled = logits.astype(np.float64) / self.temperature
        shifted = np.exp(scaled - scaled.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)

    def rejections(self, logits: np.ndarray, features: np.ndarray) -> Sequence[str | None]:
        """Give for each image the reason why it is rejected, or None.

        Takes logits, float32 `[N, classes]`, and `extract_features` of each image, float32 `[N, features]`.
        """
        return self.rejection.reasons(logits, features) if self.rejection else [None] * len(logits)

    def to_json(self) -> str:
        """Write the whole as one line of JSON, about eight kilobytes: means keep five digits, roots four."""
        values: dict[str, Any] = {"temperature": _round(self.temperature), "about": dict(self.about)}
        if self.scale is not None:
            values["scale"] = asdict(self.scale)
        if self.rejection is not None:
            lower = np.tril_indices(len(APPEARANCE))
            values["rejection"] = {
                "features": FEATURES,
                "limits": {name: [_round(limit) for limit in pair] for name, pair in self.rejection.limits.items()},
                "appearance": APPEARANCE,
                "clusters": [
                    [
                        {"mean": [_round(v, 5) for v in c.mean], "root": [_round(v, 4) for v in c.root[lower]]}
                        for c in of_class
                    ]
                    for of_class in self.rejection.clusters
                ],
                "max_distance": _round(self.rejection.max_distance),
            }
        return json.dumps(values, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str, classes: int | None = None) -> Decision:
        """Read what `to_json` wrote, for a model of so many `classes`; None does not check.

        Raises `ValueError` where it is damaged, of another version's features, or for another number of classes; the
        message says which, and how to measure the decision again.
        """
        try:
            values = json.loads(text)
            temperature = float(values["temperature"])
            if not 0 < temperature < math.inf or not set(values) <= {"temperature", "about", "scale", "rejection"}:
                raise ValueError("temperature or keys")
            rejection = values.get("rejection")
            scale = values.get("scale") and ImageScale(**values["scale"])
            if scale and not (scale.unit in ("mm", "px") and 0 < scale.per_pixel < math.inf):
                raise ValueError("scale")
            decision = cls(temperature, rejection and _read_rule(rejection), dict(values.get("about", {})), scale)
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ValueError(f"the decision is damaged; {_AGAIN}") from None
        if decision.rejection is not None and classes is not None and len(decision.rejection.clusters) != classes:
            found = len(decision.rejection.clusters)
            raise ValueError(f"a decision for {found} classes, the model has {classes}; {_AGAIN}")
        return decision


_AGAIN = "measure it again (rice calibrate MODEL --profile PROFILE)"


def _read_rule(values: Mapping[str, Any]) -> RejectionRule:
    if tuple(values["features"]) != FEATURES or tuple(values["appearance"]) != APPEARANCE:
        raise ValueError("other features than this version computes")
    limits = {name: (float(low), float(high)) for name, (low, high) in values["limits"].items()}
    clusters = [[_read_cluster(cluster) for cluster in of_class] for of_class in values["clusters"]]
    max_distance = float(values["max_distance"])
    if set(limits) != set(STRUCTURE) or not clusters or not all(clusters) or not max_distance > 0:
        raise ValueError("incomplete")
    return RejectionRule(limits, clusters, max_distance)


def _read_cluster(values: Mapping[str, Any]) -> Cluster:
    mean = np.array(values["mean"], np.float64)
    root = np.zeros((len(APPEARANCE), len(APPEARANCE)))
    root[np.tril_indices(len(APPEARANCE))] = values["root"]
    if mean.shape != (len(APPEARANCE),) or not (np.isfinite(mean).all() and np.isfinite(root).all()):
        raise ValueError("a cluster of another shape")
    return Cluster(mean, root)


def _structure_fault(name: str, value: float, low: float) -> str:
    """Say in words why a structure feature rejects an image."""
    if name == "area":
        return "nothing as large as a grain" if value < low else "larger than a grain"
    if name == "rim":
        return "the background is bright" if value > 0.5 else "it touches the border"
    if name == "objects":
        return "several objects" if value > 1 else "there are holes in it"
    return "several objects, or an outline that no grain has"


def _round(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}")
