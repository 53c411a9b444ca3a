"""The figures' one style: a colour a variety, sizes, and how a notebook shows a figure."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from rice_lib.common.colours import COLOURS
from rice_lib.common.files import atomic_path

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#8A97A3"
WIDTH = 6.4
"""Figure width in inches: 12 pt text stays readable when a telephone shrinks the figure to its screen."""


class NotebookFigure(Figure):
    """A figure that a notebook shows once: displayed, it leaves pyplot, which would show it again after the cell."""

    def _ipython_display_(self) -> None:
        from IPython.display import Image, display

        plt.close(self)
        png = io.BytesIO()
        self.savefig(png, format="png", dpi=2 * self.dpi, bbox_inches="tight", facecolor="white")
        display(Image(png.getvalue(), format="png", retina=True))


LineStyle = Literal["-", "--", ":", "-."]


def looks(names: Sequence[str]) -> dict[str, tuple[str, str, LineStyle]]:
    """Choose a colour, a marker and a line style for each name: the marker and line change where colours come again."""
    rounds: list[tuple[str, LineStyle]] = [("o", "-"), ("s", "--"), ("^", ":"), ("D", "-.")]
    styles = [(colour, marker, line) for marker, line in rounds for colour in COLOURS]
    return dict(zip(names, itertools.cycle(styles), strict=False))


def use_style() -> None:
    """Set matplotlib's defaults; every notebook calls it once."""
    plt.style.use(Path(__file__).parent / "template" / "rice.mplstyle")


def subplots(rows: int = 1, columns: int = 1, *, height: float, title: str = "", **settings: Any) -> tuple[Figure, Any]:
    """Make a figure of the page's width and `height` inches, and its axes as `plt.subplots` gives them."""
    fig, axes = plt.subplots(
        rows, columns, figsize=(WIDTH, height), layout="constrained", FigureClass=NotebookFigure, **settings
    )
    if title:
        fig.suptitle(title, x=0.01, ha="left", fontsize=13, weight="bold")
    return fig, axes


def save(fig: Figure, path: Path) -> Figure:
    """Write a figure as an image file, in the format of its suffix; returns the figure, for the notebook to show."""
    with atomic_path(path) as temporary:
        fig.savefig(temporary, bbox_inches="tight", facecolor="white")
    return fig
