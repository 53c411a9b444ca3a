"""Calibrate a model: fit its `Decision` (temperature and rejection rule) on its training and validation images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, write_text
from rice_lib.common.parameters import AugmentationParams
from rice_lib.contract.decision import APPEARANCE, FILE, KEY, Cluster, Decision, RejectionRule
from rice_lib.contract.features import COLUMN
from rice_lib.contract.prediction import feature_table
from rice_lib.models.augment import augment

if TYPE_CHECKING:
    from rice_lib.backends.predictor import Predictor
    from rice_lib.data.loading import Examples

REJECTED_SHARE = 0.01
"""Share of the validation images, half of them changed by `SHIFTS`, that the rule rejects."""

TEMPERATURES = (0.05, 20.0)
"""Bounds of the search for the temperature. The smoothed targets keep the optimum inside; these are a last guard."""

RIM_TOUCHED = 0.004
"""Share of the rim that may be bright: 3 of its 880 sampled pixels."""

ALLOWANCE = 0.05
"""How far solidity and fill may fall below the lowest found, as a share of it."""

SMALLEST_AREA = 0.5
"""Smallest area that may be a grain's, in units of the smallest found. Generous: size is in the appearance, too."""

TRAINING_IMAGES = 8000
"""Most training images that are used: a class's covariance of 13 features needs hundreds, not more."""

CLUSTERS = 2
"""Groups of a variety: Jasmine was photographed in two sessions, the others come out as two halves that overlap."""

RIDGE = 1e-3
"""Added to each feature's variance, in units of the variety's own: a few images' covariance has an inverse then."""

SMALLEST_CLUSTER = 100
"""A variety with fewer images for each cluster than this has one."""

SHIFTS = AugmentationParams(
    scale=0.4, shift=0.03, brightness=0.35, channel_gain=0.3, greyscale=0.2, gamma=0.1, blur=1.0, noise=6.0,
    jpeg_quality=50,
)  # fmt: skip
"""What another camera, light or file changes in a photograph of the same grain. The rule is fitted on training and
validation images as they are and on one draw of these changes, so that it does not reject a grain for the camera's
distance or white balance, which the images of one session say nothing of."""


def fit_temperature(logits: np.ndarray, labels: np.ndarray) -> float:
    """Fit the temperature of the least negative log-likelihood on validation logits (Guo et al. 2017).

    A good model predicts almost all validation images correctly, and where all are correct, ever lower temperatures are
    ever better: the likelihood has no optimum. The targets are therefore smoothed as Platt does (1999, "Probabilistic
    outputs for support vector machines", section 2.2): the true class has probability (n + 1) / (n + 2) and the others
    share the rest, as if one image more had been misclassified.

    Takes logits, `[n, classes]`, and class numbers in their order, int `[n]`.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    logits = logits.astype(np.float64)
    count, classes = logits.shape
    target = np.full(logits.shape, 1 / (count + 2) / (classes - 1))
    target[np.arange(count), labels] = (count + 1) / (count + 2)

    def loss(log_temperature: float) -> float:
        return -float((target * log_softmax(logits / np.exp(log_temperature), axis=1)).sum(axis=1).mean())

    return float(np.exp(minimize_scalar(loss, bounds=np.log(TEMPERATURES), method="bounded").x))


def fit_clusters(appearance: np.ndarray, seed: int) -> list[Cluster]:
    """Fit the clusters of one variety from the `APPEARANCE` features of its images, `[n, L]`."""
    from sklearn.covariance import ledoit_wolf
    from sklearn.mixture import GaussianMixture

    appearance = appearance.astype(np.float64)
    spread = appearance.std(axis=0) + 1e-6
    scaled = (appearance - appearance.mean(axis=0)) / spread
    group = np.zeros(len(appearance), int)
    if len(appearance) >= CLUSTERS * SMALLEST_CLUSTER:
        group = GaussianMixture(CLUSTERS, random_state=seed, reg_covar=1e-4).fit_predict(scaled)
        if np.bincount(group, minlength=CLUSTERS).min() < SMALLEST_CLUSTER / 2:
            group[:] = 0
    clusters = []
    for number in np.unique(group):
        # shrunk towards a sphere (Ledoit & Wolf 2004), so that a few dozen images give a usable one too
        covariance, _ = ledoit_wolf(scaled[group == number])
        covariance = (covariance + RIDGE * np.eye(len(APPEARANCE))) * np.outer(spread, spread)
        mean = appearance[group == number].mean(axis=0)
        clusters.append(Cluster(mean, np.linalg.cholesky(np.linalg.inv(covariance))))
    return clusters


def fit_rejection_rule(
    training: tuple[np.ndarray, np.ndarray],
    validation: tuple[np.ndarray, np.ndarray],
    share: float = REJECTED_SHARE,
    seed: int = 83,
) -> RejectionRule:
    """Fit the rejection rule.

    Args:
        training: features of training images, float32 `[n, M]`, and their class numbers in the order of the logits.
        validation: features of the validation images, float32 `[m, M]`, and the model's logits of them.
        share: of the validation images that may be rejected.
        seed: of the clusters.
    """
    features, labels = training
    both = np.concatenate([features, validation[0]])
    columns = [COLUMN[name] for name in APPEARANCE]
    clusters = [fit_clusters(features[labels == number][:, columns], seed) for number in range(validation[1].shape[1])]
    # a few odd images left out: a tenth of the share that may be rejected
    lowest = np.quantile(both[:, [COLUMN[name] for name in ("area", "solidity", "fill")]], share / 10, axis=0)
    area, solidity, fill = (lowest * [SMALLEST_AREA, 1 - ALLOWANCE, 1 - ALLOWANCE]).tolist()
    limits = {
        "area": (area, 1.0),
        "rim": (0.0, RIM_TOUCHED),
        "objects": (1.0, 1.0),
        "solidity": (solidity, 1.0),
        "fill": (fill, 1.01),
    }
    anything = RejectionRule(limits, clusters, np.inf)
    distances = np.sort(anything.distances(validation[1], validation[0]))[::-1]
    beyond = int(share * len(distances))
    # between two images, so that no rounding moves one across; where the share is less than one image, half as much
    # again as the max_distance
    max_distance = float(distances[beyond - 1 : beyond + 1].mean()) if beyond else 1.5 * float(distances[0])
    return RejectionRule(limits, clusters, max_distance)


def calibrate(predictor: Predictor, training: Examples, validation: Examples, batch_size: int, seed: int) -> Decision:
    """Calibrate a model; shows progress.

    At most `TRAINING_IMAGES` of the training images are used; the seed is that of their choice and of the clusters.
    Raises `RiceError` where the model's labels are not the images' classes, or one of them has no training image.
    """
    from rice_lib.models.metrics import label_columns

    column = label_columns(predictor, training.classes)
    drawn = np.random.default_rng(seed).permutation(len(training))[:TRAINING_IMAGES]
    known = training.take(np.sort(drawn))
    absent = [f"training image of {name}" for number, name in enumerate(known.classes) if number not in known.labels]
    if len(validation) == 0:
        absent.append("validation image")
    if absent:
        raise RiceError(f"nothing to calibrate on: no {absent[0]}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        logits, features = _shifted_too(validation, batch_size, "validation", predictor.logits, feature_table)
        (known_features,) = _shifted_too(known, batch_size, "features of training images", feature_table)
    known_labels = np.tile(column[known.labels], 2)
    rule = fit_rejection_rule((known_features, known_labels), (features, logits), seed=seed)
    logits, features = logits[: len(validation)], features[: len(validation)]
    about = {
        "training_images": len(known),
        "validation_images": len(validation),
        "validation_rejected": sum(reason is not None for reason in rule.reasons(logits, features)),
    }
    return Decision(fit_temperature(logits, column[validation.labels]), rule, about, training.scale)


def _shifted_too(
    examples: Examples, batch_size: int, title: str, *functions: Callable[[np.ndarray], np.ndarray]
) -> list[np.ndarray]:
    """Apply functions of pixels to the n images as they are, then changed by `SHIFTS`: of each, `[2 n, ...]`."""
    batches = (
        augment(pixels, SHIFTS) if shifted else pixels
        for shifted in (False, True)
        for pixels in examples.batches(batch_size, title)
    )
    results = [[function(pixels) for function in functions] for pixels in batches]
    return [np.concatenate(parts) for parts in zip(*results, strict=True)]


def write_decision(model: Path, decision: Decision) -> Path:
    """Write a decision into a checkpoint directory (`decision.json`) or an ONNX file's metadata; returns the file.

    Raises `RiceError` where the model is neither of the two.
    """
    if model.is_dir():
        write_text(model / FILE, decision.to_json() + "\n")
        return model / FILE
    if model.suffix != ".onnx" or not model.is_file():
        raise RiceError(f"{model}: no checkpoint directory and no .onnx file (a plan's decision comes from the .onnx)")
    import onnx

    proto = onnx.load(model)
    carried = {entry.key: entry.value for entry in proto.metadata_props}
    onnx.helper.set_model_props(proto, {**carried, KEY: decision.to_json()})
    with atomic_path(model) as temporary:
        onnx.save(proto, temporary)
    return model
