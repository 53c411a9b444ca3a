"""Figures made of numbers: counts, intervals, curves, confusion, reliability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure

from rice_lib.common.classes import VARIETIES
from rice_lib.report.style import INK, MUTED, PALETTE, WIDTH, NotebookFigure, heading, new_axes

if TYPE_CHECKING:
    from rice_lib.common.tracking import Metric


class ReliabilityBins(Protocol):
    """What `reliability` draws: `rice_lib.models.reliability.Reliability` has it."""

    edges: np.ndarray
    counts: np.ndarray
    right: np.ndarray
    confidence: np.ndarray
    error: float


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

    fig, ax = new_axes(height=4.8)
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


def reliability(readings: Mapping[str, ReliabilityBins]) -> Figure:
    """Reliability diagrams, one a column: how often the class told is right, by how sure the model said it was.

    Bars are the share told rightly in each bin of confidence, dots the mean confidence: of a model that can be
    believed both end on the diagonal. Below, how many images a bin holds.

    Args:
        readings: title to the numbers, `rice_lib.models.reliability.reliability` makes them.
    """
    fig, axes = plt.subplots(
        2, len(readings), figsize=(WIDTH, 4.9), sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1],
        layout="constrained", FigureClass=NotebookFigure,
    )  # fmt: skip
    for (top, bottom), (name, found) in zip(axes.T, readings.items(), strict=True):
        filled = found.counts > 0
        left, width = found.edges[:-1][filled], np.diff(found.edges)[filled]
        top.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.5)
        top.bar(left, found.right[filled], width * 0.92, align="edge", color="#0072B2", alpha=0.45, label="share right")
        top.plot(
            left + width / 2, found.confidence[filled], "o", color="#D55E00", markersize=5, label="mean confidence"
        )
        top.set(title=f"{name}\nECE {found.error:.4f}", xlim=(0, 1), ylim=(0, 1.03))
        bottom.bar(left, found.counts[filled], width * 0.92, align="edge", color="#0072B2")
        bottom.set(xlabel="confidence", yscale="log")
    axes[0, 0].set_ylabel("share right")
    axes[1, 0].set_ylabel("images")
    axes[0, 0].legend(loc="upper left", fontsize=10)
    return fig


def weights(matrix: np.ndarray, columns: Sequence[str], names: Sequence[str] = VARIETIES) -> Figure:
    """A linear classifier's weights: one row a feature, one column a class; float `[classes, features]`."""
    fig, ax = new_axes(height=0.9 + 0.4 * len(columns))
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
    fig, ax = new_axes(height=0.9 + 0.42 * len(metrics))
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
    heading(fig, title)
    _variety_legend(fig)
    return fig


def counts(table: pd.DataFrame, xlabel: str = "images", title: str = "") -> Figure:
    """Stacked horizontal bars: one row an index entry, one segment a column (a variety in its colour)."""
    fig, ax = new_axes(height=1.1 + 0.42 * len(table))
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
    fig, ax = new_axes(height=4.2)
    sns.lineplot(table, x=x, y=y, hue=hue, style=hue, markers=True, dashes=False, markersize=8, ax=ax)
    if log:
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.yaxis.set_major_formatter(mpl.ticker.ScalarFormatter())
        ax.yaxis.set_minor_formatter(mpl.ticker.LogFormatter())  # 600, not 6 x 10^2
    ax.set_xticks(sorted(table[x].unique()), sorted(table[x].unique()))
    ax.set_title(title)
    ax.legend(title=None, fontsize=10)
    return fig


def _marker(points: pd.DataFrame) -> str | None:
    return "o" if len(points) <= 20 else None


def _variety_legend(fig: Figure) -> None:
    handles = [mpl.lines.Line2D([], [], color=colour, linewidth=4, label=name) for name, colour in PALETTE.items()]
    fig.legend(handles=handles, loc="outside lower center", ncols=3, fontsize=10)
