"""The summary page: what it says first, its four numbers, tables and figures, and where each leads."""

from __future__ import annotations

import re

import pytest
from support.report import RUN, record

from rice_lib.common.errors import RiceError
from rice_lib.common.paths import NOTEBOOKS
from rice_lib.report.render import render
from rice_lib.report.results import KINDS
from rice_lib.report.sources import write_sources


def test_summary_says_what_it_is_about_first_and_that_quarto_is_missing(site):
    text = (site / "index.html").read_text()
    body = text[text.index("<main>") :]
    assert body.index("Rendered by nbconvert") < body.index("<h1>")
    assert body.index("Generated images, not photographs") < body.index("Which variety is the grain")
    assert re.search(r"1,200 images\.\s+<span class=\"profile\">", body)
    assert "1,200 images." in body[: body.index("Which variety is the grain")]
    assert "{{" not in body
    assert "{=html}" not in body


def section(text: str, name: str, following: str) -> str:
    return text[text.index(f'id="{name}"') : text.index(f'id="{following}"')]


def test_the_answer_comes_first_in_four_numbers(site):
    text = (site / "index.html").read_text()
    answers = re.findall(r'class="answer".*?</(?:a|div)>', text)
    assert [re.search(r"<b>(.*?)</b>", each)[1] for each in answers] == [*KINDS.values(), "speed"]
    random, session, camera, speed = answers
    assert "98.75 %" in random
    assert "96.40 to 99.57 %" in random
    assert "240 images" in random
    assert 'href="pages/04_vit_finetune.html"' in random
    assert "not measured here" in session
    assert "no image numbers" in session
    assert "no notebook has recorded it" in camera
    assert "71 <span>images/s" in speed
    assert "one image in 19 ms" in speed


def test_headline_compares_models_in_percent(site):
    table = section((site / "index.html").read_text(), "models", "confusion")
    for expected in ("95.83", "92.50\u201397.70", "82.92", "Frozen CNN"):
        assert expected in table
    assert "vit/random/" not in (site / "index.html").read_text(), "no raw key"


def test_captions_say_the_finding(paths):
    write_sources(paths)
    text = (paths.report / "index.qmd").read_text()
    assert "against the random split: session never seen \u221212.9 (Frozen CNN) points" in text


def test_numbers_and_figures_lead_to_the_cell_and_say_what_made_them(site):
    text = (site / "index.html").read_text()
    said = "run 5a0ec1f2b3c4, commit 3bf06de12ab4, parameters 0123456789ab, data fedcba987654"
    table = section(text, "models", "confusion")
    assert f'<a href="pages/03_baseline.html#in-3" title="{said}">95.83</a>' in table
    assert f'<a href="pages/03_baseline.html#in-4" title="{said}">10</a>' in text, "of a cell that is not shown"
    assert f'<a href="pages/03_baseline.html" title="{said}">82.92' in table, "recorded without its cell"
    gallery = section(text, "figures", "reproduce")
    for name in NOTEBOOKS:
        assert f'<a href="pages/{name}.html#in-3" title="{said}"><img' in gallery
        page = (site / "pages" / f"{name}.html").read_text()
        assert page.index('id="in-3"') < page.index("Imports</summary>") < page.index('id="in-4"')


def test_each_notebook_has_its_provenance_and_command(site):
    table = section((site / "index.html").read_text(), "reproduce", "versions")
    for expected in (RUN[:8], "3bf06de12ab4", "fedcba98", "01234567", "A CPU", "single-item finetune@tiny"):
        assert expected in table
    assert RUN not in table


def test_what_was_not_measured_is_listed(site):
    text = (site / "index.html").read_text()
    opening = text[: text.index('id="models"')]
    assert re.search(r"<strong>TensorRT, float16</strong>: no NVIDIA GPU", opening)
    assert re.search(r"<strong>ViT · session split</strong>: no image numbers", opening)


def test_text_of_metrics_is_escaped(site):
    assert "torch against &lt;ONNX&gt; Runtime" in (site / "index.html").read_text()


def test_figures_are_those_that_the_notebooks_recorded(paths):
    index = render(write_sources(paths), paths)
    for name in NOTEBOOKS:
        assert (index.parent / f"figures/{name}/curves.svg").read_text() == f"<svg>{name}</svg>"
        image = f'<img src="figures/{name}/curves.svg" alt="Curves of &lt;{name}&gt;"'
        assert image in index.read_text()


def test_a_recorded_figure_that_is_missing_is_one_line(paths):
    paths.figure("03_baseline", "curves").unlink()
    with pytest.raises(RiceError, match=r"curves\.svg: missing; run: rice stage 03_baseline --profile tiny"):
        write_sources(paths)


def test_notebooks_on_different_images_are_called_out(paths):
    record(paths, "04_vit_finetune", source="zip", data="0000000000000000")
    write_sources(paths)
    text = (paths.report / "index.qmd").read_text()
    assert "ran on different images" in text
    assert "Photographs from a zip" in text
    assert "Generated images, not photographs" in text


def test_different_commits_are_named(paths):
    record(paths, "06_trt_benchmark", commit="ffffffffffff-dirty")
    write_sources(paths)
    assert "different commits: 3bf06de12ab4, ffffffffffff-dirty" in (paths.report / "index.qmd").read_text()


def test_a_blank_that_nothing_fills_is_one_line(paths):
    with (paths.root / "reports/index.qmd").open("a") as template:
        template.write("{{ no_such_blank }}")
    with pytest.raises(RiceError, match=r"index\.qmd: 'no_such_blank' is undefined"):
        write_sources(paths)
