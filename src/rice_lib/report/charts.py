"""Figures made of numbers: counts, intervals, curves, confusion, reliability."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from rice_lib.common.colours import MUTED
from rice_lib.report.style import BLUE, MODEL_STYLES, ORANGE, looks, subplots

if TYPE_CHECKING:
    from rice_lib.common.tracking import Metric


def confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix of counts, rows true, columns predicted, errors in orange.

    Takes true and predicted class numbers, int `[n]`, the class names by number, and a title above the figure. The
    shade follows the square root of the share of the row, so that one image in a thousand is visible.
    """
    size = len(names)
    counts = confusion_matrix(labels, predicted, labels=range(size))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(size, dtype=bool)
    fig, ax = subplots(height=4.8)
    for hidden, colour, most in ((~diagonal, BLUE, 1.6), (diagonal | (counts == 0), ORANGE, 0.3)):
        shades = {"cmap": sns.light_palette(colour, as_cmap=True), "norm": PowerNorm(0.5, 0, most)}
        cells = {"annot": counts, "fmt": ",d", "linewidths": 1, "cbar": False, "vmin": 0, "vmax": most}
        sns.heatmap(share, mask=hidden, ax=ax, **shades, **cells)
    recalls = [f"recall {share[k, k]:.2%}" if counts[k].any() else "no image" for k in range(size)]
    ax.set_xticklabels(names, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticklabels([f"{name}\n{recall}" for name, recall in zip(names, recalls, strict=True)], rotation=0)
    ax.set(xlabel="predicted", ylabel="true", title=title)
    ax.grid(False)
    return fig


def intervals(metrics: Mapping[str, Metric], xlabel: str = "accuracy") -> Figure:
    """Draw numbers with their 95 % intervals, one row each; a number that was not measured says so in its row."""
    fig, ax = subplots(height=0.9 + 0.42 * len(metrics))
    for row, metric in enumerate(metrics.values()):
        if metric.value is None:
            ax.text(0.5, row, "not measured here", transform=ax.get_yaxis_transform(), va="center", ha="center")
            continue
        reach = [metric.value if end is None else end for end in (metric.low, metric.high)]
        ax.plot(reach, [row, row], color=BLUE, linewidth=3, solid_capstyle="round", alpha=0.45)
        ax.plot(metric.value, row, "o", color=BLUE)
        above = {"xytext": (0, 6), "textcoords": "offset points", "ha": "center", "fontsize": 10}
        ax.annotate(f"{metric.value:.4f}", (metric.value, row), **above)
    ax.set_yticks(range(len(metrics)), list(metrics))
    ax.set(xlabel=xlabel, ylim=(len(metrics) - 0.4, -0.7))
    ax.grid(False, axis="y")
    return fig


def slope(accuracies: Mapping[str, Mapping[str, Metric]], kinds: Sequence[str]) -> Figure:
    """Draw each model's accuracy from one kind of test images to the next, with 95 % intervals.

    Args:
        accuracies: model to kind of test images to accuracy; what was not measured is absent or of value None.
        kinds: the kinds of test images, from the easiest to the hardest.
    """
    fig, ax = subplots(height=3.8)
    for number, (model, found) in enumerate(accuracies.items()):
        colour, marker = MODEL_STYLES[number % len(MODEL_STYLES)]
        shift = 0.05 * (number - (len(accuracies) - 1) / 2)  # so that no interval hides another
        measured = {
            place: found[kind] for place, kind in enumerate(kinds) if kind in found and found[kind].value is not None
        }
        ends = np.array([[m.value, m.low, m.high] for m in measured.values()], float).reshape(-1, 3).T * 100
        values, low, high = np.where(np.isnan(ends), ends[0], ends)
        reach = np.maximum([values - low, high - values], 0)
        at = [place + shift for place in measured]
        ax.errorbar(at, values, reach, color=colour, marker=marker, markersize=7, capsize=4, label=model)
        if at:
            beside = {"xytext": (8, -4), "textcoords": "offset points", "color": colour, "fontsize": 10}
            ax.annotate(f"{values[-1]:.1f}", (at[-1], values[-1]), **beside)
    for place, kind in enumerate(kinds):
        if all(kind not in found or found[kind].value is None for found in accuracies.values()):
            ax.text(place, 0.06, "not measured\nhere", transform=ax.get_xaxis_transform(), ha="center", color=MUTED)
    ax.set_xticks(range(len(kinds)), [textwrap.fill(kind, 14) for kind in kinds])
    ax.set(xlim=(-0.25, len(kinds) - 0.6), ylabel="accuracy, %")
    ax.grid(False, axis="x")
    fig.legend(loc="outside lower center", ncols=2, fontsize=10)
    return fig


def most_confused(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], most: int = 1) -> str:
    """Say what a confusion matrix shows: how many are misclassified, and up to `most` of the most frequent errors.

    Arguments are as in `confusion`.
    """
    wrong = labels != predicted
    if not wrong.any():
        return f"all {len(labels):,} images are classified correctly"
    pairs = Counter(sorted(zip(labels[wrong].tolist(), predicted[wrong].tolist(), strict=True))).most_common(most)
    often = ", ".join(f"{names[true]} as {names[other]} ({count:,})" for (true, other), count in pairs)
    return f"{wrong.sum():,} of {len(labels):,} images are misclassified, most often {often}"


def distributions(table: pd.DataFrame, columns: Sequence[str]) -> Figure:
    """Draw the density of each numeric column, one curve a variety (`label`), one panel a column."""
    rows, look = -(-len(columns) // 2), looks(sorted(table["label"].unique()))
    density: dict[str, Any] = {"fill": True, "alpha": 0.18, "linewidth": 1.6, "warn_singular": False, "gridsize": 80}
    fig, axes = subplots(rows, 2, height=2.1 * rows + 0.6, squeeze=False)
    for ax, column in zip(axes.flat, columns, strict=False):
        for name, (colour, _, line) in look.items():
            values = table.loc[table["label"] == name, column]
            sns.kdeplot(values, color=colour, linestyle=line, ax=ax, **density)
        ax.set(xlabel=column, ylabel="", yticks=[])
        sns.despine(ax=ax, left=True)
    for ax in axes.flat[len(columns) :]:
        ax.axis("off")
    handles = [mpl.lines.Line2D([], [], color=colour, linestyle=line, linewidth=3) for colour, _, line in look.values()]
    fig.legend(handles, list(look), loc="outside lower center", ncols=3, fontsize=10)
    return fig


def lines(table: pd.DataFrame, *, x: str, y: str, hue: str) -> Figure:
    """Draw one line a value of `hue` through the points (x, y) of a long table, on logarithmic axes."""
    fig, ax = subplots(height=4.2)
    sns.lineplot(table, x=x, y=y, hue=hue, style=hue, markers=True, dashes=False, markersize=8, ax=ax)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    ax.set_xticks(sorted(table[x].unique()), sorted(table[x].unique()))
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=10)
    ax.get_legend().remove()
    return fig
