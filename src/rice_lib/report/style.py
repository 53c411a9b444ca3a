"""The figures' one style: a colour a variety, sizes, and how a notebook shows and saves a figure.

Drawings are SVG, sharp at any size and in print; figures that hold photographs are JPEG at twice the page's pixels.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter, LogFormatterMathtext

from rice_lib.common.colours import COLOURS
from rice_lib.common.files import atomic_path

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8A97A3"
MODEL_STYLES = ((ORANGE, "s"), ("#5B6770", "^"), (BLUE, "o"), ("#9A4F80", "D"))
"""Colour and marker of the models in their order; another model begins again."""

WIDTH = 6.4
"""Figure width in inches: 12 pt text stays readable when a telephone shrinks the figure to its screen."""


class NotebookFigure(Figure):
    """A figure that a notebook shows once: displayed, it leaves pyplot, which would show it again after the cell."""

    photographs = False  # it holds some: see `subplots`

    def _ipython_display_(self) -> None:
        from IPython.display import SVG, Image, display

        plt.close(self)
        data = encoded(self)
        display(Image(data, format="jpeg", retina=True) if self.photographs else SVG(data))


LineStyle = Literal["-", "--", ":", "-."]


def looks(names: Sequence[str]) -> dict[str, tuple[str, str, LineStyle]]:
    """Choose a colour, a marker and a line style for each name: the marker and line change where colours come again."""
    rounds: list[tuple[str, LineStyle]] = [("o", "-"), ("s", "--"), ("^", ":"), ("D", "-.")]
    styles = [(colour, marker, line) for marker, line in rounds for colour in COLOURS]
    return dict(zip(names, itertools.cycle(styles), strict=False))


def use_style() -> None:
    """Set matplotlib's defaults; every notebook calls it once."""
    plt.style.use(Path(__file__).parent / "template" / "rice.mplstyle")


def subplots(
    rows: int = 1, columns: int = 1, *, height: float, title: str = "", photographs: bool = False, **settings: Any
) -> tuple[NotebookFigure, Any]:
    """Make a figure of the page's width and `height` inches, and its axes as `plt.subplots` gives them.

    With `photographs` it becomes a JPEG, else an SVG.
    """
    fig, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height), layout="constrained", FigureClass=NotebookFigure, **settings
    )
    fig.photographs = photographs
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold")
    return fig, axes


class _PlainLog(LogFormatter):
    """Labels of a logarithmic axis as 600 and 0.6: matplotlib's own are mathematics, which the style switches off."""

    def _num_to_string(self, x: float, vmin: float, vmax: float) -> str:
        return f"{x:,.3g}" if x < 1000 else f"{x:,.0f}"


def encoded(fig: Figure) -> bytes:
    """Encode a figure, on white paper in any surroundings: the same figure always gives the same bytes."""
    for ax in fig.axes:
        for axis, most in ((ax.xaxis, 1), (ax.yaxis, 2)):  # decades up to which numbers between them have room
            base = getattr(axis.get_transform(), "base", 10)  # only a logarithmic axis has one
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(_PlainLog(base))
            if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
                axis.set_minor_formatter(_PlainLog(base, minor_thresholds=(most, 0.5)))
    data = io.BytesIO()
    settings: dict[str, Any] = {"bbox_inches": "tight", "facecolor": "white"}
    if getattr(fig, "photographs", False):
        fig.savefig(data, format="jpeg", dpi=2 * fig.dpi, pil_kwargs={"quality": 85, "optimize": True}, **settings)
    else:
        fig.savefig(data, format="svg", metadata={"Date": None, "Creator": None}, **settings)
    return data.getvalue()


def save(fig: Figure, path: Path) -> Figure:
    """Write a figure under `path` with the suffix of its kind: .jpg with photographs, else .svg; returns it."""
    kind, other = (".jpg", ".svg") if getattr(fig, "photographs", False) else (".svg", ".jpg")
    with atomic_path(path.with_suffix(kind)) as temporary:
        temporary.write_bytes(encoded(fig))
    path.with_suffix(other).unlink(missing_ok=True)
    plt.close(fig)
    return fig
