"""Figures made of photographs: grids, mistakes, relevance maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from rice_lib.common.classes import VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.report.style import WIDTH, NotebookFigure, heading


class ImageSource(Protocol):
    """What `mistakes` needs of the images: `rice_lib.data.loading.Examples` has it."""

    paths: list[str]

    def batch(self, indices: Any, /) -> np.ndarray:
        """The images at `indices` as uint8 `[b, 224, 224, 3]`."""


class PredictionTable(Protocol):
    """What `mistakes` needs of the predictions: `rice_lib.cli.evaluate.Predictions` has it."""

    @property
    def paths(self) -> list[str]:
        """Image paths, in the order of the images."""

    @property
    def labels(self) -> np.ndarray:
        """True class numbers, int `[n]`."""

    @property
    def predicted(self) -> np.ndarray:
        """Predicted class numbers, int `[n]`."""

    @property
    def scores(self) -> np.ndarray:
        """Probabilities, float `[n, classes]`."""


def image_grid(
    pixels: np.ndarray | Sequence[np.ndarray],
    titles: Sequence[str] | None = None,
    columns: int = 5,
    title: str = "",
) -> Figure:
    """Images side by side.

    Args:
        pixels: uint8 `[n, height, width, 3]`, or a sequence of `[height, width, 3]`.
        titles: one an image, of at most two short lines.
        columns: images in a row.
        title: above the figure.
    """
    rows = max(1, -(-len(pixels) // columns))
    side = WIDTH / columns
    lines = max((text.count("\n") + 1 for text in titles), default=0) if titles else 0
    height = rows * (side + 0.19 * lines) + (0.35 if title else 0)
    fig, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height), squeeze=False, layout="constrained", FigureClass=NotebookFigure
    )
    fig.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)  # type: ignore[union-attr,call-arg]
    for number, ax in enumerate(axes.flat):
        ax.axis("off")
        if number < len(pixels):
            ax.imshow(pixels[number])
            if titles:
                ax.set_title(titles[number], fontsize=9, weight="normal", loc="center", pad=3)
    heading(fig, title)
    return fig


def relevance_page(
    overlays: Sequence[np.ndarray], titles: Sequence[str], bar: np.ndarray, columns: int = 5, title: str = ""
) -> Figure:
    """Relevance maps over their images, side by side, with the scale of their colours below.

    Args:
        overlays: one an image, as `rice_lib.explain.picture.overlay` gives them.
        titles: one an image, of at most two short lines.
        bar: the scale, uint8 `[rows, 256, 3]`, as `rice_lib.explain.picture.colour_bar` gives it.
        columns: images in a row.
        title: above the figure.
    """
    fig = image_grid(overlays, titles, columns, title)
    fig.set_figheight(fig.get_figheight() + 0.5)
    scale = fig.colorbar(mpl.cm.ScalarMappable(), ax=fig.axes, location="bottom", shrink=0.5, aspect=25, pad=0.02)
    scale.ax.imshow(bar, extent=(0, 1, 0, 1), aspect="auto", zorder=3, interpolation="nearest")
    scale.set_ticks([0, 1], labels=["not relevant", "its most relevant patch"])
    scale.ax.tick_params(labelsize=9, length=0)
    scale.outline.set_visible(False)  # type: ignore[operator]  # matplotlib's stubs take it for a function
    return fig


def mistakes(
    examples: ImageSource,
    predictions: PredictionTable,
    *,
    limit: int = 15,
    names: Sequence[str] = VARIETIES,
    columns: int = 5,
    subject: str = "",
) -> Figure:
    """The wrongly told images, the surest mistakes first; where there are none, the least certain right ones.

    Args:
        examples: the images.
        predictions: a model's answers on them.
        limit: show at most this many.
        names: class names by number.
        columns: images in a row.
        subject: first line of the title (the model, the split).

    Raises:
        RiceError: the predictions are not about these images, in this order.
    """
    if list(examples.paths) != list(predictions.paths):
        raise RiceError("the predictions belong to other images than the examples: write them again")
    confidence = predictions.scores.max(axis=1)
    wrong = np.flatnonzero(predictions.predicted != predictions.labels)
    if len(wrong):
        shown = wrong[np.argsort(-confidence[wrong], kind="stable")][:limit]
        told = f"{len(wrong):,} of {len(predictions.labels):,} images told wrongly"
        title = told if len(shown) == len(wrong) else f"{told}; the surest {len(shown)}"
    else:
        shown = np.argsort(confidence, kind="stable")[: min(limit, columns)]
        title = f"No mistake in {len(predictions.labels):,} images; the least certain"
    title = f"{subject}\n{title}" if subject else title
    titles = [
        f"{names[predictions.labels[i]]}, told\n{names[predictions.predicted[i]]} {confidence[i]:.2f}" for i in shown
    ]
    return image_grid(examples.batch(shown), titles, columns, title)
