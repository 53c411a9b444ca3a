"""Tables for people: human formats, right-aligned numbers, and text that Markdown does not read as markup."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from nbconvert.filters.markdown import markdown2html

from rice_lib.common.tracking import Metric
from rice_lib.report import tables


def column(*cells, form=None) -> list[str]:
    table = pd.DataFrame({"x": pd.Series(cells, dtype=object)})
    lines = tables.markdown(table, {"x": form} if form else None).splitlines()
    return [line.strip("| ") for line in lines[2:]]


@pytest.mark.parametrize(
    ("cells", "texts"),
    [
        ([1200, 3], ["1,200", "3"]),
        ([0.98765, 1.0], ["0.9877", "1.0000"]),
        ([12.3456, 7.0], ["12.35", "7.00"]),
        ([12345.6, 40.25], ["12,346", "40"]),
        ([1500.4, 0.5312], ["1,500", "0.531"]),
        ([9.537e-07, 0.0004179], ["9.5\u00a0\u00d7\u00a010⁻⁷", "4.2\u00a0\u00d7\u00a010⁻⁴"]),
        ([0, 0.0], ["0", "0"]),
        ([None, float("nan"), 2], ["—", "—", "2"]),
        ([np.float32(0.5), np.int64(1)], ["0.5000", "1.0000"]),
        ([True, False], ["True", "False"]),
        ([Metric(0.98765, 0.9, 0.99), Metric(None, how="why")], ["0.9877 \\[0.9000,\u00a00.9900\\]", "not measured"]),
        ([Metric(1234.5), Metric(3)], ["1,234", "3"]),
    ],
)
def test_numbers_as_people_write_them(cells, texts):
    assert column(*cells) == texts


def test_a_column_may_have_a_format_of_its_own():
    assert column(0.25, None, form="{:.0%}") == ["25%", "—"]
    assert column(0.25, 1e-9, form=tables.p_value) == ["0.2500", r"\< 0.0001"]


def test_numbers_are_right_aligned_text_is_not_and_there_is_no_index():
    table = pd.DataFrame(
        {"name": ["a", "b"], "n": [1, 2], "m ± s": ["1.0 ± 0.1", "12 ± 3"], "k": ["1 of 40", "—"]}, index=[7, 8]
    )
    head, rule, first, _ = tables.markdown(table).splitlines()
    assert head == "| name | n | m ± s | k |"
    assert [part.strip().endswith(":") for part in rule.strip("|").split("|")] == [False, True, True, True]
    assert first == "| a | 1 | 1.0 ± 0.1 | 1 of 40 |"


@pytest.mark.parametrize("text", ["a|b", "<script>", "_x_ *y* `z`", "[a](b)", "two\nlines", "$1 ~ 2^3 @me", "C:\\x"])
def test_text_is_shown_as_it_is(text):
    html = markdown2html(tables.markdown(pd.DataFrame({"x": [text]})))
    cell = html[html.index("<td") :]
    inside = cell[cell.index(">") + 1 : cell.index("</td>")]
    for entity, character in (("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")):
        inside = inside.replace(entity, character)
    assert inside == " ".join(text.split())


def test_code_stays():
    html = markdown2html(tables.markdown(pd.DataFrame({"x": [tables.code("x_y")]})))
    assert "<code>x_y</code>" in html


def test_a_notebook_shows_markdown_not_html():
    shown = tables.show(pd.DataFrame({"x": [1]}))
    assert shown._repr_markdown_().startswith("| x |")
    assert not hasattr(shown, "_repr_html_")
