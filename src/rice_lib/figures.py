"""Figures that the notebooks and the report share: one style, one colour a variety.

Every function returns a matplotlib `Figure`. A notebook shows it once, whether it is the last expression of a
cell, is passed to `display`, or is only made there. `save` writes one to a file.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from rice_lib.errors import RiceError
from rice_lib.files import atomic_path
from rice_lib.labels import VARIETIES

if TYPE_CHECKING:
    from rice_lib.tracking import Metric

PALETTE: dict[str, str] = dict(zip(VARIETIES, ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7"), strict=True))
"""A variety's colour: Okabe and Ito's colour-blind safe set (jfly.uni-koeln.de/color), without pale ones."""

INK = "#22303C"
FAINT = "#D5DBE1"
MUTED = "#66717C"
WIDTH = 6.4
"""Figure width in inches: 12 pt text stays readable when a telephone shrinks the figure to its screen."""


class NotebookFigure(Figure):
    """A figure that a notebook shows once: displayed, it leaves pyplot, which would show it again after the cell."""

    def _ipython_display_(self) -> None:
        from IPython.display import Image, display

        plt.close(self)
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=self.dpi, bbox_inches="tight", facecolor="white")
        display(Image(png.getvalue()))


class ImageSource(Protocol):
    """What `mistakes` needs of the images: `rice_lib.data.loading.Examples` has it."""

    paths: list[str]

    def batch(self, indices: Any, /) -> np.ndarray:
        """The images at `indices` as uint8 `[b, 224, 224, 3]`."""


class PredictionTable(Protocol):
    """What `mistakes` needs of the predictions: `rice_lib.evaluate.Predictions` has it."""

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


def use_style() -> None:
    """Set matplotlib's and seaborn's defaults; the head of every notebook calls it once."""
    sns.set_theme(
        style="white",
        palette=list(PALETTE.values()),
        rc={
            "figure.figsize": (WIDTH, 3.8),
            "figure.dpi": 110,
            "savefig.dpi": 160,
            "figure.constrained_layout.use": True,
            "font.size": 12,
            "axes.titlesize": 13,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.labelsize": 12,
            "axes.labelcolor": INK,
            "axes.edgecolor": MUTED,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": FAINT,
            "grid.linewidth": 0.7,
            "text.color": INK,
            "xtick.color": MUTED,
            "ytick.color": MUTED,
            "xtick.labelcolor": INK,
            "ytick.labelcolor": INK,
            "legend.frameon": False,
            "lines.linewidth": 2,
        },
    )


def save(fig: Figure, path: Path) -> Path:
    """Write a figure as an image file (the suffix says which format), whole or not at all; returns `path`."""
    with atomic_path(path) as temporary:
        fig.savefig(temporary, bbox_inches="tight", facecolor="white")
    return path


def confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str] = VARIETIES, title: str = "") -> Figure:
    """Confusion matrix of counts, rows true, columns predicted, errors shaded; recall at the right.

    The shade follows the square root of the share of the row: one image in a thousand is meant to be seen.

    Args:
        labels: true class numbers, int `[n]`.
        predicted: predicted class numbers, int `[n]`.
        names: class names by number.
        title: above the figure.
    """
    size = len(names)
    counts = np.bincount(np.asarray(labels) * size + np.asarray(predicted), minlength=size * size)
    counts = counts.reshape(size, size)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    wrong = np.ma.masked_where(np.eye(size, dtype=bool) | (counts == 0), share)
    right = np.ma.masked_where(~np.eye(size, dtype=bool), share)

    fig, ax = _axes(height=4.8)
    ax.imshow(right, cmap=sns.light_palette("#0072B2", as_cmap=True), norm=PowerNorm(0.5, 0, 1), alpha=0.75)
    ax.imshow(wrong, cmap=sns.light_palette("#D55E00", as_cmap=True), norm=PowerNorm(0.5, 0, 0.3))
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count:,}" if count or row == column else "·"
        weight = "bold" if count and row != column else "normal"
        ax.text(column, row, text, ha="center", va="center", weight=weight, color=INK if count else MUTED)
    for row in range(size):
        recall = f"{share[row, row]:.2%}" if counts[row].sum() else "no image"
        ax.text(size - 0.4, row, recall, ha="left", va="center", color=MUTED)
    ax.text(size - 0.4, -0.62, "recall", ha="left", va="bottom", color=MUTED)
    ax.set_xticks(range(size), names, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(size), names)
    ax.set(xlabel="predicted", ylabel="true", title=title)
    ax.grid(False)
    sns.despine(ax=ax, left=True, bottom=True)
    return fig


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
    _heading(fig, title)
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


def learning_curves(history: Iterable[Mapping[str, Any]]) -> Figure:
    """Training and validation loss, and validation accuracy, over epochs.

    Args:
        history: records as transformers' `TrainerState.log_history` has them: `epoch` with `loss`, or with
            `eval_loss` and `eval_accuracy`.
    """
    table = pd.DataFrame(list(history))
    fig, (top, bottom) = plt.subplots(
        2, 1, figsize=(WIDTH, 5.2), sharex=True, layout="constrained", FigureClass=NotebookFigure
    )
    for column, name, colour in (("loss", "training", "#8A97A3"), ("eval_loss", "validation", "#0072B2")):
        if column in table:
            points = table.dropna(subset=[column])
            top.plot(points["epoch"], points[column], color=colour, label=name, marker=_marker(points))
    top.set(ylabel="loss", title="Loss")
    top.set_yscale("log")
    top.legend()
    if "eval_accuracy" in table:
        points = table.dropna(subset=["eval_accuracy"])
        bottom.plot(points["epoch"], points["eval_accuracy"], color="#0072B2", marker=_marker(points))
    bottom.set(xlabel="epoch", ylabel="accuracy", title="Validation accuracy")
    return fig


def reliability(labels: np.ndarray, scores: np.ndarray, bins: int = 10) -> Figure:
    """How often the predicted class is right, by how sure the model said it was; below, how many images.

    Args:
        labels: true class numbers, int `[n]`.
        scores: probabilities, float `[n, classes]`.
        bins: equal steps of confidence from chance to 1.
    """
    confidence = scores.max(axis=1)
    right = scores.argmax(axis=1) == labels
    edges = np.linspace(1 / scores.shape[1], 1, bins + 1)
    place = np.clip(np.digitize(confidence, edges) - 1, 0, bins - 1)
    count = np.bincount(place, minlength=bins)
    share = np.bincount(place, right, minlength=bins) / np.maximum(count, 1)
    mean = np.bincount(place, confidence, minlength=bins) / np.maximum(count, 1)
    fig, (top, bottom) = plt.subplots(
        2, 1, figsize=(WIDTH, 5.2), sharex=True, height_ratios=[3, 1], layout="constrained", FigureClass=NotebookFigure
    )
    top.plot([edges[0], 1], [edges[0], 1], color=MUTED, linestyle=":", linewidth=1.5)
    top.plot(mean[count > 0], share[count > 0], color="#0072B2", marker="o")
    top.set(ylabel="share right", title="Confidence against truth")
    bottom.bar(edges[:-1], count, width=np.diff(edges) * 0.9, align="edge", color="#0072B2")
    bottom.set(xlabel="confidence", ylabel="images", yscale="log")
    return fig


def weights(matrix: np.ndarray, columns: Sequence[str], names: Sequence[str] = VARIETIES) -> Figure:
    """A linear classifier's weights: one row a feature, one column a class; float `[classes, features]`."""
    fig, ax = _axes(height=0.9 + 0.4 * len(columns))
    limit = float(np.abs(matrix).max())
    sns.heatmap(
        pd.DataFrame(matrix.T, index=list(columns), columns=list(names)),
        cmap=sns.diverging_palette(40, 245, s=85, l=55, as_cmap=True),
        vmin=-limit,
        vmax=limit,
        annot=True,
        fmt=".1f",
        annot_kws={"fontsize": 11},
        cbar=False,
        linewidths=1,
        ax=ax,
    )
    ax.tick_params(axis="y", rotation=0)
    ax.tick_params(axis="x", rotation=0)
    return fig


def intervals(metrics: Mapping[str, Metric], xlabel: str = "accuracy", title: str = "") -> Figure:
    """Numbers with their 95 % intervals, one row each; a number that was not measured says so in its row."""
    fig, ax = _axes(height=0.9 + 0.42 * len(metrics))
    rows = range(len(metrics) - 1, -1, -1)
    for row, metric in zip(rows, metrics.values(), strict=True):
        if metric.value is None:
            ax.text(0.5, row, "not measured here", transform=ax.get_yaxis_transform(), va="center", ha="center")
            continue
        low = metric.value if metric.low is None else metric.low
        high = metric.value if metric.high is None else metric.high
        ax.plot([low, high], [row, row], color="#0072B2", linewidth=3, solid_capstyle="round", alpha=0.45)
        ax.plot(metric.value, row, "o", color="#0072B2")
        ax.annotate(
            f"{metric.value:.4f}",
            (metric.value, row),
            (0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=10,
        )
    ax.set_yticks(list(rows), list(metrics))
    ax.set_ylim(-0.6, len(metrics) - 0.3)
    ax.set(xlabel=xlabel, title=title)
    ax.grid(False, axis="y")
    return fig


def distributions(table: pd.DataFrame, columns: Sequence[str], by: str = "label", title: str = "") -> Figure:
    """Density of each numeric column, one curve a variety, one panel a column."""
    rows = -(-len(columns) // 2)
    fig, axes = plt.subplots(
        rows, 2, figsize=(WIDTH, 2.1 * rows + 0.6), squeeze=False, layout="constrained", FigureClass=NotebookFigure
    )
    for ax, column in zip(axes.flat, columns, strict=False):
        sns.kdeplot(
            table, x=column, hue=by, hue_order=VARIETIES, palette=PALETTE, common_norm=False, fill=True,
            alpha=0.18, linewidth=1.6, legend=False, warn_singular=False, ax=ax,
        )  # fmt: skip
        ax.set(xlabel=column, ylabel="", yticks=[])
        sns.despine(ax=ax, left=True)
    for ax in axes.flat[len(columns) :]:
        ax.axis("off")
    _heading(fig, title)
    _variety_legend(fig)
    return fig


def counts(table: pd.DataFrame, xlabel: str = "images", title: str = "") -> Figure:
    """Stacked horizontal bars: one row an index entry, one segment a column (a variety in its colour)."""
    fig, ax = _axes(height=1.1 + 0.42 * len(table))
    spare = iter(sns.color_palette(["#0072B2", "#E69F00", "#8A97A3", "#009E73", "#D55E00", "#CC79A7"]))
    colours = [PALETTE[str(c)] if str(c) in PALETTE else next(spare) for c in table.columns]
    table.plot.barh(stacked=True, color=colours, ax=ax, width=0.7, legend=table.shape[1] > 1)
    ax.invert_yaxis()
    ax.set(xlabel=xlabel, ylabel="", title=title)
    ax.grid(False, axis="y")
    if table.shape[1] > 1:
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=min(5, table.shape[1]), fontsize=10)
    return fig


def lines(table: pd.DataFrame, *, x: str, y: str, hue: str, log: bool = True, title: str = "") -> Figure:
    """One line a value of `hue` through the points (x, y) of a long table, by default logarithmic."""
    fig, ax = _axes(height=4.2)
    sns.lineplot(table, x=x, y=y, hue=hue, style=hue, markers=True, dashes=False, markersize=8, ax=ax)
    if log:
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
    ax.set_xticks(sorted(table[x].unique()), sorted(table[x].unique()))
    ax.set_title(title)
    ax.legend(title=None, fontsize=10)
    return fig


def _axes(height: float) -> tuple[Figure, Axes]:
    return plt.subplots(figsize=(WIDTH, height), layout="constrained", FigureClass=NotebookFigure)


def _marker(points: pd.DataFrame) -> str | None:
    return "o" if len(points) <= 20 else None


def _heading(fig: Figure, title: str) -> None:
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold")


def _variety_legend(fig: Figure) -> None:
    handles = [mpl.lines.Line2D([], [], color=colour, linewidth=4, label=name) for name, colour in PALETTE.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10)
