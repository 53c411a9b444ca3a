"""Figures made of numbers: counts, intervals, curves, confusion, reliability."""

from __future__ import annotations

import math
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix

from rice_lib.common.colours import INK, MUTED
from rice_lib.report.style import BLUE, GREY, MODEL_STYLES, ORANGE, looks, subplots

if TYPE_CHECKING:
    from rice_lib.common.tracking import Metric
    from rice_lib.models.metrics import Reliability


def confusion(labels: np.ndarray, predicted: np.ndarray, names: Sequence[str], title: str = "") -> Figure:
    """Draw a confusion matrix of counts, rows true, columns predicted, errors shaded; recall at the right.

    The shade follows the square root of the share of the row, so that one image in a thousand is visible.

    Args:
        labels: true class numbers, int `[n]`.
        predicted: predicted class numbers, int `[n]`.
        names: class names by number.
        title: above the figure.
    """
    size = len(names)
    counts = confusion_matrix(labels, predicted, labels=range(size))
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    diagonal = np.eye(size, dtype=bool)
    fig, ax = subplots(height=4.8)
    for hidden, colour, most, alpha in ((~diagonal, BLUE, 1, 0.75), (diagonal | (counts == 0), ORANGE, 0.3, 1)):
        shades = sns.light_palette(colour, as_cmap=True)
        ax.imshow(np.ma.masked_where(hidden, share), cmap=shades, norm=PowerNorm(0.5, 0, most), alpha=alpha)
    for (row, column), count in np.ndenumerate(counts):
        text = f"{count:,}" if count or row == column else "·"
        weight = "bold" if count and row != column else "normal"
        ax.text(column, row, text, ha="center", va="center", weight=weight, color=INK if count else MUTED)
    recalls = [f"{share[row, row]:.2%}" if counts[row].sum() else "no image" for row in range(size)]
    for row, text in enumerate([*recalls, "recall"]):
        ax.text(size - 0.4, row, text, ha="left", va="center" if row < size else "bottom", color=MUTED)
    ax.set_xticks(range(size), names, rotation=30, ha="right", rotation_mode="anchor")
    ax.set_yticks(range(size), names)
    ax.set(xlabel="predicted", ylabel="true", title=title)
    ax.grid(False)
    sns.despine(ax=ax, left=True, bottom=True)
    return fig


def learning_curves(history: Iterable[Mapping[str, Any]]) -> Figure:
    """Draw training and validation loss, and validation accuracy, over epochs.

    Args:
        history: records as transformers' `TrainerState.log_history` has them: `epoch` with `loss`, or with
            `eval_loss` and `eval_accuracy`.
    """
    table = pd.DataFrame(list(history)).set_index("epoch").reindex(columns=["loss", "eval_loss", "eval_accuracy"])
    fig, (top, bottom) = subplots(2, 1, height=5.2, sharex=True)
    for ax, column, name in (
        (top, "loss", "training"),
        (top, "eval_loss", "validation"),
        (bottom, "eval_accuracy", ""),
    ):
        points, colour = table[column].dropna(), GREY if column == "loss" else BLUE
        ax.plot(points, color=colour, label=name, marker="o" if len(points) <= 20 else None)
    top.set(ylabel="loss", title="Loss", yscale="log")
    _label_plainly(top)
    top.legend()
    bottom.set(xlabel="epoch", ylabel="accuracy", title="Validation accuracy")
    return fig


def reliability(readings: Mapping[str, Reliability]) -> Figure:
    """Draw reliability diagrams, one a column: the share of correct predictions in each bin of confidence.

    Bars are that share, dots the mean confidence: of a calibrated model both end on the diagonal. Below, how many
    images a bin holds.

    Args:
        readings: title to the numbers of `rice_lib.models.metrics.reliability`.
    """
    fig, axes = subplots(2, len(readings), height=4.9, sharex=True, sharey="row", squeeze=False, height_ratios=[3, 1])
    for (top, bottom), (name, found) in zip(axes.T, readings.items(), strict=True):
        filled, width = found.counts > 0, 1 / len(found.counts)
        left = np.flatnonzero(filled) * width
        top.plot([0, 1], [0, 1], color=MUTED, linestyle=":", linewidth=1.5)
        top.bar(left, found.accuracy[filled], width * 0.92, align="edge", color=BLUE, alpha=0.45, label="share correct")
        middle = left + width / 2
        top.plot(middle, found.confidence[filled], "o", color=ORANGE, markersize=5, label="mean confidence")
        top.set(title=f"{name}\nECE {found.error:.4f}", xlim=(0, 1), ylim=(0, 1.03))
        bottom.bar(left, found.counts[filled], width * 0.92, align="edge", color=BLUE)
        bottom.set(xlabel="confidence", yscale="log")
        bottom.yaxis.set_major_formatter("{x:,.0f}")
    axes[0, 0].set_ylabel("share correct")
    axes[1, 0].set_ylabel("images")
    fig.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=10)
    return fig


def weights(matrix: np.ndarray, columns: Sequence[str], names: Sequence[str]) -> Figure:
    """Draw a linear classifier's weights: one row a feature, one column a class; float `[classes, features]`."""
    fig, ax = subplots(height=0.9 + 0.4 * len(columns))
    table = pd.DataFrame(matrix.T.round(1) + 0.0, index=list(columns), columns=list(names))  # no "-0.0"
    colours = sns.diverging_palette(40, 245, s=85, l=55, as_cmap=True)
    sns.heatmap(table, cmap=colours, center=0, annot=True, fmt=".1f", cbar=False, linewidths=1, ax=ax)
    ax.tick_params(axis="both", rotation=0)
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
    fig, ax = subplots(height=3.4)
    end, ends = len(kinds) - 0.85, []
    for number, (model, found) in enumerate(accuracies.items()):
        colour, marker = MODEL_STYLES[number % len(MODEL_STYLES)]
        beside = 0.05 * (number - (len(accuracies) - 1) / 2)  # so that no interval hides another
        measured = {
            place: found[kind] for place, kind in enumerate(kinds) if kind in found and found[kind].value is not None
        }
        at = [place + beside for place in measured]
        values, reach = _percent(measured.values())
        ax.errorbar(at, values, reach, color=colour, marker=marker, markersize=7, capsize=4, zorder=3)
        if at:
            ax.plot([at[-1], end], [values[-1]] * 2, color=colour, linestyle=":", linewidth=1.2)
            ends.append([values[-1], textwrap.fill(f"{values[-1]:.1f} {model}", 19), colour])
    for place, kind in enumerate(kinds):
        if all(kind not in found or found[kind].value is None for found in accuracies.values()):
            ax.text(place, 0.06, "not measured\nhere", transform=ax.get_xaxis_transform(), ha="center", color=MUTED)
    ax.set_xticks(range(len(kinds)), [textwrap.fill(kind, 14) for kind in kinds])
    ax.set(xlim=(-0.25, len(kinds) + 0.1), ylabel="accuracy, %")
    ax.grid(False, axis="x")
    low, high = ax.get_ylim()
    least, gap = -math.inf, 0.15 * (high - low)
    for value, text, colour in sorted(ends):
        least = max(value, least + gap)
        ax.text(end + 0.04, least, text, color=colour, va="center", fontsize=11, weight="bold")
    return fig


def recalls(table: pd.DataFrame) -> Figure:
    """Draw the recall of each variety by model, one panel a kind of test images, with 95 % intervals.

    Args:
        table: `variety`, `model`, `kind` and `recall`, a `Metric` that has a value.
    """
    kinds, varieties, models = (list(dict.fromkeys(table[name])) for name in ("kind", "variety", "model"))
    fig, axes = subplots(1, len(kinds), height=1.5 + 0.42 * len(varieties), sharey=True, squeeze=False)
    for ax, kind in zip(axes.flat, kinds, strict=True):
        for number, model in enumerate(models):
            colour, marker = MODEL_STYLES[number % len(MODEL_STYLES)]
            chosen = table[(table["kind"] == kind) & (table["model"] == model)]
            values, reach = _percent(chosen["recall"])
            rows = [varieties.index(name) + 0.2 * (number - (len(models) - 1) / 2) for name in chosen["variety"]]
            style = {"color": colour, "marker": marker, "linestyle": "", "markersize": 6}
            ax.errorbar(values, rows, xerr=reach, label=model, **style)
        ax.set(title=textwrap.fill(kind, 14), xlabel="recall, %")
    axes[0, 0].set_yticks(range(len(varieties)), varieties)
    axes[0, 0].invert_yaxis()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    fig.legend(handles, labels, loc="outside lower center", ncols=min(2, len(models)), fontsize=10)
    return fig


def _percent(metrics: Iterable[Metric]) -> tuple[np.ndarray, np.ndarray]:
    """The values of metrics in percent, float `[n]`, and how far their intervals reach below and above, `[2, n]`."""
    ends = np.array([[m.value, m.low, m.high] for m in metrics], float).reshape(-1, 3).T * 100
    value, low, high = np.where(np.isnan(ends), ends[0], ends)
    return value, np.maximum([value - low, high - value], 0)


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


def drift(table: pd.DataFrame, columns: Sequence[str], boundary: int) -> Figure:
    """Draw features over the image's number, one row a variety, with a dashed line at `boundary`.

    Args:
        table: `label`, `number`, and the columns.
        columns: the features, one a column of the figure.
        boundary: the number where the session split divides the images.
    """
    look = looks(sorted(table["label"].unique()))
    height = 0.4 + 1.2 * len(look)
    fig, axes = subplots(len(look), len(columns), height=height, sharex=True, sharey="col", squeeze=False)
    for row, (variety, (colour, marker, _)) in zip(axes, look.items(), strict=True):
        grains = table[(table["label"] == variety) & table["number"].notna()]
        for ax, column in zip(row, columns, strict=True):
            numbers = grains["number"].astype(int)
            ax.scatter(numbers, grains[column], s=5, linewidth=0, color=colour, marker=marker, rasterized=True)
            ax.axvline(boundary, color=INK, linestyle="--", linewidth=1)
            ax.yaxis.set_major_formatter("{x:,.0f}")
        row[0].set_title(variety, fontsize=11)
    for ax, column in zip(axes[0], columns, strict=True):
        ax.annotate(column, (1, 1.08), xycoords="axes fraction", ha="right", fontsize=10, color=MUTED)
    fig.supxlabel("number in the file name", fontsize=11)
    return fig


def lines(table: pd.DataFrame, *, x: str, y: str, hue: str) -> Figure:
    """Draw one line a value of `hue` through the points (x, y) of a long table, on logarithmic axes."""
    fig, ax = subplots(height=4.2)
    sns.lineplot(table, x=x, y=y, hue=hue, style=hue, markers=True, dashes=False, markersize=8, ax=ax)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    _label_plainly(ax)
    ax.set_xticks(sorted(table[x].unique()), sorted(table[x].unique()))
    fig.legend(*ax.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=10)
    ax.get_legend().remove()
    return fig


class _PlainLog(mpl.ticker.LogFormatter):
    """Labels of a logarithmic axis as 600 and 0.6, not as 6 x 10^2 and 6e-01."""

    def _num_to_string(self, x: float, vmin: float, vmax: float) -> str:
        return f"{x:,.3g}" if x < 1000 else f"{x:,.0f}"


def _label_plainly(ax: Axes) -> None:
    ax.yaxis.set_major_formatter(_PlainLog())
    ax.yaxis.set_minor_formatter(_PlainLog(minor_thresholds=(2, 0.5)))
