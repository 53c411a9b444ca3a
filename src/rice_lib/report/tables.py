"""Tables for people, as Markdown: the one helper of the notebooks, and the tables of the summary page.

Markdown rather than HTML, because JupyterLab, Quarto, nbconvert and GitHub all show it, and because Quarto loads
scripts from other sites for a page with HTML outputs.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import TYPE_CHECKING, Any

import pandas as pd

from rice_lib.common.tracking import Metric

if TYPE_CHECKING:
    from IPython.display import Markdown

NONE = "—"
"""Where there is nothing to show."""

_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_NUMERIC = re.compile(rf"([-+]|\\< )?\d[^a-zA-Z]*( of [\d,]+)?$|{NONE}$")
_PUNCTUATION = re.compile(r"([\\`*_{}\[\]<>#|$~^@])")

Format = str | Callable[[Any], str]


@dataclass(frozen=True)
class Formatted:
    """Markdown that a table shows as it is; text is escaped."""

    text: str


def code(text: str) -> Formatted:
    """Show text as code: a path, a command."""
    return Formatted(f"`{text.replace('|', chr(92) + '|')}`") if text else Formatted(NONE)


def escape(text: str) -> str:
    """Escape what Markdown would read as markup, and put the text on one line; spaces that do not break stay."""
    return _PUNCTUATION.sub(r"\\\1", re.sub(r"[^\S\u00a0]+", " ", text).strip(" "))


def show(table: pd.DataFrame, formats: Mapping[str, Format] | None = None) -> Markdown:
    """Show a table in a notebook; see `markdown`."""
    from IPython.display import Markdown

    return Markdown(markdown(table, formats))


def markdown(table: pd.DataFrame, formats: Mapping[str, Format] | None = None) -> str:
    """Format a table as Markdown: numbers right-aligned, at most four significant digits, no row index.

    Args:
        table: its cells hold text, numbers, None or NaN for nothing, and `Metric`s, shown with their intervals.
        formats: column to format string or function, where the column's numbers need another format.
    """
    formats = formats or {}
    columns = [_column(list(table[name]), formats.get(name)) for name in table.columns]
    widths = [max([len(str(name)), *map(len, cells)]) for name, (cells, _) in zip(table.columns, columns, strict=True)]
    # where a row is too long for the page, Quarto shares out its width by the lengths of these rules
    rules = [
        "-" * min(max(width, 3), 40) + (":" if right else "") for width, (_, right) in zip(widths, columns, strict=True)
    ]
    rows = [[escape(str(name)) for name in table.columns], rules, *zip(*(cells for cells, _ in columns), strict=True)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def number(value: float, digits: int = 4) -> str:
    """Format one number: thousands apart, `digits` significant digits, very small ones with a power of ten."""
    if math.isinf(value) or value == int(value):
        return f"{value:,.0f}"
    if abs(value) < 1e-3:
        mantissa, exponent = f"{value:.1e}".split("e")
        return f"{mantissa}\u00a0\u00d7\u00a010{str(int(exponent)).translate(_SUPERSCRIPTS)}"
    return f"{value:,.{max(0, digits - 1 - math.floor(math.log10(abs(value))))}f}"


def p_value(value: float) -> str:
    """Format a p-value."""
    return f"{value:.4f}" if value >= 1e-4 else "< 0.0001"


def metric(found: Metric) -> str:
    """Format a metric: the value, and its 95 % interval in brackets; shares to four decimals."""
    if found.value is None:
        return "not measured"
    share = found.low is not None and abs(found.value) <= 1
    text = f"{found.value:.4f}" if share else number(found.value)
    return f"{text} [{found.low:.4f},\u00a0{found.high:.4f}]" if share else text  # one space where a line may break


def _column(cells: Sequence[Any], form: Format | None) -> tuple[list[str], bool]:
    """The texts of a column's cells, and whether they are numbers."""
    numbers = [float(cell) for cell in cells if _is_number(cell)]
    if form is None:
        form = _decimals(numbers)
    write = form if callable(form) else form.format
    texts = []
    for cell in cells:
        if isinstance(cell, Metric):
            texts.append(escape(metric(cell)))
        elif _is_number(cell):
            texts.append(escape(write(cell)))
        else:
            absent = cell is None or cell is pd.NA or (isinstance(cell, Real) and not isinstance(cell, bool))
            texts.append(NONE if absent else cell.text if isinstance(cell, Formatted) else escape(str(cell)))
    right = all(isinstance(cell, Metric) or _NUMERIC.match(text) for cell, text in zip(cells, texts, strict=True))
    return texts, right


def _is_number(cell: Any) -> bool:
    return isinstance(cell, Real) and not isinstance(cell, bool) and not math.isnan(cell)


def _decimals(numbers: Sequence[float]) -> Format:
    """The format of a column: the same decimals in all rows, unless its numbers differ too much in size for that."""
    sizes = [abs(value) for value in numbers if value and math.isfinite(value)]
    if not sizes or all(value == int(value) for value in sizes):
        return "{:,.0f}"
    largest, smallest = max(sizes), min(sizes)
    decimals = 4 if largest <= 1 else max(0, 3 - math.floor(math.log10(largest)))
    if smallest * 10**decimals < 10 and (largest < 0.01 or largest > 1):
        return lambda value: number(value, 3)
    return f"{{:,.{decimals}f}}"
