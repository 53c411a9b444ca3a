"""Figures made of photographs: grids, misclassified images, relevance maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from rice_lib.common.errors import RiceError
from rice_lib.report.style import WIDTH, subplots

if TYPE_CHECKING:
    from rice_lib.data.loading import Examples
    from rice_lib.models.metrics import Predictions


def image_grid(
    pixels: np.ndarray | Sequence[np.ndarray], titles: Sequence[str] | None = None, columns: int = 5, title: str = ""
) -> Figure:
    """Show images, uint8 `[n, height, width, 3]` or a sequence of `[height, width, 3]`, side by side.

    `columns` are in a row. `titles` are one an image, of at most two short lines; `title` stands above the figure.
    """
    rows = max(1, -(-len(pixels) // columns))
    lines = max((text.count("\n") + 1 for text in titles or [] if text), default=0)
    height = rows * (WIDTH / columns + 0.19 * lines) + (0.35 if title else 0)
    fig, axes = subplots(rows, columns, height=height, title=title, photographs=True, squeeze=False)
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)  # type: ignore[union-attr,call-arg]
    for number, ax in enumerate(axes.flat):
        ax.axis("off")
        if number < len(pixels):
            ax.imshow(pixels[number])
            if titles:
                ax.set_title(titles[number], fontsize=9, weight="normal", loc="center", pad=3)
    return fig


def caption(predictions: Predictions, image: int) -> str:
    """Write an image's true variety, and below it what it is predicted as with the confidence."""
    true, predicted = (predictions.classes[of[image]] for of in (predictions.labels, predictions.predicted))
    return f"{true} as\n{predicted} {predictions.scores[image].max():.2f}"


def most_confident_mistakes(predictions: Predictions) -> np.ndarray:
    """Find the misclassified images, most confident first: int `[misclassified]`."""
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    return wrong[np.argsort(-predictions.scores[wrong].max(axis=1), kind="stable")]


def misclassified(examples: Examples, predictions: Predictions, *, limit: int = 15, subject: str = "") -> Figure:
    """Show the misclassified images, most confident first; where there are none, the least confident correct ones.

    Shows at most `limit`; `subject` is the title's first line (the model, the split). Raises `RiceError` where the
    predictions are not about these images, in this order.
    """
    if list(examples.paths) != list(predictions.paths):
        raise RiceError("the predictions belong to other images than the examples: write them again")
    wrong, total = most_confident_mistakes(predictions), len(predictions.labels)
    shown, title = wrong[:limit], f"{len(wrong):,} of {total:,} images misclassified"
    if len(wrong) > limit:
        title += f"; the {limit} most confident"
    if not len(wrong):
        shown = np.argsort(predictions.scores.max(axis=1), kind="stable")[:5]
        title = f"All {total:,} images correct; the least confident"
    captions = [caption(predictions, image) for image in shown]
    return image_grid(examples.batch(shown), captions, title="\n".join(filter(None, (subject, title))))
