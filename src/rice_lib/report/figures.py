"""Figures that the notebooks and the report share: one style, one colour a variety.

Every function returns a matplotlib `Figure`. A notebook shows it once, whether it is the last expression of a cell, is
passed to `display`, or is only made there. `save` writes one to a file.
"""

from rice_lib.report.charts import (
    confusion,
    counts,
    distributions,
    intervals,
    learning_curves,
    lines,
    reliability,
    weights,
)
from rice_lib.report.images import image_grid, mistakes, relevance_page
from rice_lib.report.style import INK, MUTED, PALETTE, WIDTH, save, use_style

__all__ = [
    "INK",
    "MUTED",
    "PALETTE",
    "WIDTH",
    "confusion",
    "counts",
    "distributions",
    "image_grid",
    "intervals",
    "learning_curves",
    "lines",
    "mistakes",
    "relevance_page",
    "reliability",
    "save",
    "use_style",
    "weights",
]
