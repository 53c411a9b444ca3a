"""The figures' one style: a colour a variety, sizes, and how a notebook shows a figure."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import seaborn as sns
from matplotlib.figure import Figure

from rice_lib.common.classes import COLOURS, VARIETIES
from rice_lib.common.colours import INK, MUTED
from rice_lib.common.files import atomic_path

PALETTE: dict[str, str] = dict(zip(VARIETIES, COLOURS, strict=True))
"""A variety's colour."""

FAINT = "#D5DBE1"
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


def use_style() -> None:
    """Set matplotlib's and seaborn's defaults; every notebook calls it once."""
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
