"""Fit the head of a ViT with `grain_features` in closed form: a linear discriminant on its frozen embedding.

A few dozen images a class do not train a network, but they place a linear discriminant whose covariance is pooled over
the classes and shrunk (Ledoit & Wolf 2004, J. Multivariate Analysis 88:365). Fine-tuning then begins where it stands
(Kumar et al. 2022, "Fine-tuning can distort pretrained features", arXiv:2202.10054).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from rice_lib.backends.grain_features import FEATURES, FeatureHead
from rice_lib.backends.vit import RiceViTForImageClassification, normalise
from rice_lib.common.files import atomic_folder
from rice_lib.common.run import Run
from rice_lib.data.loading import Examples
from rice_lib.models.baseline import weights as weights_of
from rice_lib.models.calibration import fit_temperature
from rice_lib.models.finetune import write_checkpoint
from rice_lib.models.metrics import McNemar

SIGNIFICANT = 0.05
FOLDS = 5  # at most, of the images that set the head's temperature

PARTS = {"both": slice(None), "grain features": slice(-FEATURES, None), "the ViT's embedding": slice(-FEATURES)}
"""What a head can read of `RiceViTForImageClassification.evidence`."""


def evidence(model: RiceViTForImageClassification, examples: Examples, batch_size: int) -> np.ndarray:
    """Compute what the head reads of each image, float32 `[n, hidden_size + FEATURES]`; shows progress."""
    with torch.inference_mode():
        batches = examples.batches(batch_size, "embedding and grain features")
        parts = [model.eval().evidence(normalise(torch.from_numpy(pixels).to(model.device))) for pixels in batches]
    return torch.cat(parts).cpu().numpy()


def discriminant(part: str = "both") -> Pipeline:
    """Create the classifier of evidence, unfitted: standardisation, then the discriminant, on one of `PARTS`."""
    chosen = FunctionTransformer(_columns, kw_args={"part": part})
    return make_pipeline(chosen, StandardScaler(), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))


def _columns(values: np.ndarray, part: str) -> np.ndarray:
    return values[:, PARTS[part]].astype(np.float64)


def fit_head(model: RiceViTForImageClassification, values: np.ndarray, labels: np.ndarray, part: str = "both") -> float:
    """Fit `discriminant` and write it into a model's head; what lies outside `part` has the weight 0.

    The logits are divided by the temperature that images which a fit has not seen ask for: with more features than
    images of a class, a discriminant is far too sure of itself. Returns that temperature.

    The model, with `grain_features`, is changed in place. `values` is the `evidence` of the training images, `labels`
    their class numbers, int `[n]`, of which every one occurs at least twice, and `part` one of `PARTS`.
    """
    folds = StratifiedKFold(min(FOLDS, int(np.bincount(labels).min())))
    unseen = cross_val_predict(discriminant(part), values, labels, cv=folds, method="predict_log_proba")
    temperature = fit_temperature(unseen, labels)
    _, scaler, fitted = discriminant(part).fit(values, labels).named_steps.values()
    weights, bias = (each - each.mean(axis=0) for each in weights_of(fitted))  # smaller logits, same softmax
    head, columns = model.classifier, PARTS[part]
    assert isinstance(head, FeatureHead)
    with torch.no_grad():
        head.mean.zero_(), head.scale.fill_(1), head.linear.weight.zero_()
        head.mean[columns], head.scale[columns] = torch.from_numpy(scaler.mean_), torch.from_numpy(scaler.scale_)
        head.linear.weight[:, columns] = torch.from_numpy(weights / temperature).float()
        head.linear.bias.copy_(torch.from_numpy(bias / temperature))
    return temperature


def beyond_chance(test: McNemar) -> bool:
    """Say whether the second of two models is better than the first at p below `SIGNIFICANT`."""
    return test.p_value < SIGNIFICANT and test.only_b_wrong < test.only_a_wrong


def swap(first: Path, second: Path) -> None:
    """Exchange two folders."""
    aside = first.with_name(f".{first.name}.aside")
    first.rename(aside)
    second.rename(first)
    aside.rename(second)


def save_head(run: Run, model: RiceViTForImageClassification, folder: Path, trained_on: str) -> None:
    """Save a model whose head was fitted as a checkpoint, with what made it."""
    with atomic_folder(folder) as fresh:
        write_checkpoint(run, model, fresh, trained_on, {"trained": "head alone"})
