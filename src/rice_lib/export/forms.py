"""Decide which forms of a model keep its labels: half precision, 8 bits, other engines.

A form that changes more labels than the float32 model makes errors on the same images is not offered: its own errors
would outweigh the model's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rice_lib.contract.decision import Decision
from rice_lib.contract.prediction import feature_table, read_logits

REFERENCE = "onnx_float32"


@dataclass(frozen=True)
class Kept:
    """What a form keeps of the float32 model's predictions."""

    images: int
    changed: int
    """Images with another label, rejected or not."""
    errors: int
    """Of the form itself."""
    reference_errors: int
    rejections_equal: float | None
    """Share of the images that both reject or both accept; None where the model carries no rejection rule."""

    @property
    def offered(self) -> bool:
        """Whether the form may be used in place of the float32 model."""
        return self.changed <= self.reference_errors

    def __str__(self) -> str:
        errors = f"{self.reference_errors} error{'s' * (self.reference_errors != 1)}"
        return f"{self.changed} of {self.images} labels changed; float32 makes {errors} on them"


def compare(form: np.ndarray, reference: np.ndarray, truth: np.ndarray, pixels: np.ndarray, decision: Decision) -> Kept:
    """Compare a form's logits with the float32 model's, both `[N, classes]`, on labelled images.

    `truth` are the true class numbers, int `[N]`; `pixels`, uint8 `[N, 224, 224, 3]`, are for the decision's rule.
    """
    ours, theirs, agreed = form.argmax(1), reference.argmax(1), None
    if decision.rejects:
        features, names = feature_table(pixels), [str(number) for number in range(form.shape[1])]
        read = [read_logits(names, decision, logits, features) for logits in (form, reference)]
        agreed = float(np.mean([(a.reason is None) == (b.reason is None) for a, b in zip(*read, strict=True)]))
    changed, errors, expected = (int(np.sum(each)) for each in (ours != theirs, ours != truth, theirs != truth))
    return Kept(len(truth), changed, errors, expected, agreed)
