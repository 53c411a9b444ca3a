"""The report's pages, from recorded metrics and executed notebooks that are made up here."""

from __future__ import annotations

import base64
import os
import re
import shutil
import stat
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import yaml
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from rice_lib.cli.report import main
from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_json
from rice_lib.common.paths import NOTEBOOKS, Paths
from rice_lib.common.tracking import Metric
from rice_lib.report.render import render
from rice_lib.report.results import KINDS, read_results
from rice_lib.report.sources import write_sources

ROOT = Path(__file__).parents[2]
PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n a picture").decode()
PAGES = {".qmd", ".ipynb"}
RUN = "5a0ec1f2b3c44d5e8f90123456789abc"


def score(model, split, name, *values, **more):
    return Metric(*values, name=name, of={"model": model, "split": split}, **more)


def point(engine, batch, name, value, **more):
    return Metric(value, name=name, of={"engine": engine, "batch": batch}, **more)


METRICS = {
    "01_eda": {"images": Metric(1200)},
    "02_split": {"naive/torn_groups": Metric(12, name="groups divided", how="same seed, duplicates ignored")},
    "03_baseline": {
        "cnn/random/accuracy": score("cnn", "random", "accuracy", 0.9583, 0.925, 0.977, 240, cell=3),
        "cnn/session/accuracy": score("cnn", "session", "accuracy", 0.8292, 0.776, 0.872, 240),
        "cnn/random/errors": score("cnn", "random", "misclassified", 10, n=240, cell=4),
    },
    "04_vit_finetune": {
        "vit/random/accuracy": score("vit", "random", "accuracy", 0.9875, 0.964, 0.9957, 240),
        "vit/session/accuracy": score("vit", "session", "accuracy", None, how="not measured here: no image numbers"),
    },
    "05_export": {"export/parity_max_abs_b1": Metric(2.1e-6, n=1, how="torch against <ONNX> Runtime")},
    "06_trt_benchmark": {
        "torch/b1/images_per_s": point("torch_eager", 1, "throughput", 52.3, unit="images/s"),
        "torch/b1/p50_ms": point("torch_eager", 1, "median latency", 19.1, unit="ms"),
        "torch/b8/images_per_s": point("torch_eager", 8, "throughput", 71.0, unit="images/s"),
        "trt/b1/images_per_s": point("tensorrt_float16", 1, "throughput", None, how="not measured here: no NVIDIA GPU"),
        "trt/b8/p50_ms": point("tensorrt_float16", 8, "median latency", None, how="not measured here: no NVIDIA GPU"),
        "torch/peak_rss_mb": Metric(812.4, unit="MB", name="peak memory", of={"engine": "torch_eager"}),
    },
    "07_triton_smoke": {"serve/ready_s": Metric(2.1, unit="s", how="start to model ready")},
}


def provenance(**changes):
    return {
        "created": "2026-01-02T03:04:05+00:00",
        "commit": "3bf06de12ab4",
        "params": "0123456789abcdef",
        "data": "fedcba9876543210",
        "source": "synthetic",
        "hardware": "A CPU, 2 cores",
        "versions": {"python": "3.11.7", "torch": "2.14.1"},
        "mlflow_run": RUN,
        **changes,
    }


def write_notebook(paths: Paths, name: str) -> None:
    cells = [
        new_markdown_cell(f"# {name[:2]} Title of {name}\n\nWhat it finds out.\n\n## A section"),
        new_code_cell("profile = None", metadata={"tags": ["parameters"]}, execution_count=1),
        new_code_cell('profile = "tiny"', metadata={"tags": ["injected-parameters"]}, execution_count=2),
        new_code_cell(
            f'curves = style.save(fig, paths.figure("{name}", f"{{curves}}"))',
            metadata={"fig-alt": "Curves of accuracy", "code-summary": "Imports"},
            outputs=[
                new_output("stream", name="stderr", text="some library warns"),
                new_output("stream", name="stdout", text="said on stdout"),
                new_output("display_data", {"image/png": PIXEL, "text/plain": "<Figure>"}),
            ],
            execution_count=3,
        ),
        new_code_cell("record(run)", metadata={"tags": ["remove-cell"]}, execution_count=4),
    ]
    paths.notebook(name).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(new_notebook(cells=cells), paths.notebook(name))


def run_all(root: Path) -> Paths:
    """A checkout whose seven notebooks have run under `tiny`."""
    shutil.copytree(ROOT / "params", root / "params")
    shutil.copytree(ROOT / "docs", root / "docs")
    (root / "reports").mkdir()
    for name in ("_quarto.yml", "reports/index.qmd", "reports/styles.css"):
        shutil.copy(ROOT / name, root / name)
    paths = Paths(root, "tiny")
    for name in NOTEBOOKS:
        record(paths, name)
        write_notebook(paths, name)
    return paths


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setenv("RICE_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", "/nowhere")
    return run_all(tmp_path)


def record(paths: Paths, name: str, **changes) -> None:
    metrics = {key: metric.__dict__ for key, metric in METRICS[name].items()}
    figures = {"curves": f"Curves of <{name}>"}
    content = {"notebook": name, "profile": "tiny", "metrics": metrics, "figures": figures}
    write_json(paths.metrics(name), {**content, "provenance": provenance(**changes)})
    paths.figure(name, "curves").parent.mkdir(parents=True, exist_ok=True)
    paths.figure(name, "curves").write_text(f"<svg>{name}</svg>")


class Page(HTMLParser):
    """The links, sources and balance of an HTML page."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.text = file.read_text()
        self.links: list[str] = []
        self.sources: list[str] = []
        self.open: list[str] = []
        self.feed(self.text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        if tag in ("a", "link") and values.get("href"):
            self.links.append(values["href"])
        if values.get("src"):
            self.sources.append(values["src"])
        if tag not in ("meta", "link", "img", "br", "input", "hr", "col"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if self.open and self.open[-1] == tag:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}>"


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site as nbconvert renders it, to look at only."""
    paths = run_all(tmp_path_factory.mktemp("site"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", "/nowhere")
        render(write_sources(paths), paths)
    return paths.report / "site"


def test_pages_are_complete_and_lead_to_each_other(site):
    files = sorted(site.rglob("*.html"))
    assert len(files) == 1 + len(NOTEBOOKS) + len([f for f in (ROOT / "docs").rglob("*.*") if f.suffix in PAGES])
    for file in files:
        page = Page(file)
        assert page.open == []
        assert not [source for source in page.sources if source.startswith(("http:", "https:", "//"))]
        # the documentation may lead a reader outside; no page asks for anything there
        inside = [link for link in page.links if "docs" not in file.parts or not link.startswith("https:")]
        for link in [*inside, *page.sources]:
            assert not link.startswith(("http:", "https:", "//")), "nothing from outside"
            if not link.startswith(("#", "data:", "mailto:")):
                assert (file.parent / link.partition("#")[0]).is_file(), link
            if link.startswith("#"):
                assert f'id="{link[1:]}"' in page.text
        if "docs" not in file.parts:  # whose text names addresses
            inside = re.sub(r"data:image/[^\"']*", "", page.text)
            assert "http" not in inside.replace("http-equiv", "").replace("HTTP", "")


def test_summary_says_what_it_is_about_first_and_that_quarto_is_missing(site):
    text = (site / "index.html").read_text()
    body = text[text.index("<main>") :]
    assert body.index("Rendered by nbconvert") < body.index("<h1>")
    assert body.index("Generated images, not photographs") < body.index("Which variety is the grain")
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
    speed = section(text, "speed", "serving")
    assert "throughput, images/s" in speed


def test_text_of_metrics_is_escaped(site):
    assert "torch against &lt;ONNX&gt; Runtime" in (site / "index.html").read_text()


def test_notebook_pages_fold_code_and_leave_out_stderr(site):
    text = (site / "pages" / "03_baseline.html").read_text()
    assert "<h1>03 Title of 03_baseline</h1>" in text
    assert text.count("Title of 03_baseline</h1>") == 1
    assert "<details" in text
    assert "Parameters of this run" in text
    assert "<summary>Imports</summary>" in text
    assert "profile = <span" not in text.replace("&quot;tiny&quot;", ""), "no default parameters beside the run's"
    assert "said on stdout" in text
    assert "some library warns" not in text
    assert "record" not in text[text.index("<main>") :], "no bookkeeping"
    assert PIXEL[:20] in text
    assert 'alt="Curves of accuracy"' in text


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


def test_project_for_quarto_is_complete_in_its_folder(paths):
    write_sources(paths)
    project = yaml.safe_load((paths.report / "_quarto.yml").read_text())
    assert project["project"]["type"] == "website"
    assert project["project"]["output-dir"] == "site"
    assert project["execute"]["enabled"] is False
    assert "reports/" not in str(project)
    assert (paths.report / project["format"]["html"]["css"]).is_file()
    summary, notebooks, docs = project["website"]["sidebar"]["contents"]
    assert all((paths.report / page).is_file() for page in docs["contents"])
    assert (paths.report / summary["href"]).is_file()
    assert [(paths.report / page).stem for page in notebooks["contents"]] == list(NOTEBOOKS)
    for page in notebooks["contents"]:
        first = nbformat.read(paths.report / page, as_version=4).cells[0]
        assert first.cell_type == "raw"
        assert yaml.safe_load(first.source.strip("-\n"))["title"].startswith(Path(page).stem[:2])


def test_published_results_are_part_of_the_site(paths):
    published = paths.root / "docs" / "results"
    shutil.rmtree(published, ignore_errors=True)
    (published / "figures" / "01_eda").mkdir(parents=True)
    (published / "figures" / "01_eda" / "samples.jpg").write_bytes(b"a figure")
    (published / "index.qmd").write_text('---\ntitle: "Results"\n---\n\n[01](pages/01_eda.ipynb)\n')
    write_sources(paths)
    shutil.copytree(paths.report / "pages", published / "pages")
    sources = write_sources(paths)
    site = render(sources, paths).parent
    assert "Results</a>" in (site / "index.html").read_text()
    assert (site / "docs/results/pages/01_eda.html").is_file()
    assert "docs/results/pages" not in (site / "index.html").read_text(), "reached from their own summary"
    assert (site / "docs/results/figures/01_eda/samples.jpg").read_bytes() == b"a figure"
    project = yaml.safe_load((paths.report / "_quarto.yml").read_text())
    assert project["website"]["sidebar"]["contents"][2]["contents"][0] == "docs/results/index.qmd"


def test_a_notebook_that_has_not_run_is_named_and_left_out(paths):
    paths.notebook("07_triton_smoke").unlink()
    paths.metrics("07_triton_smoke").unlink()
    render(write_sources(paths), paths)
    text = (paths.report / "site/index.html").read_text()
    assert "Not run yet: 07_triton_smoke." in text
    assert "pages/07_triton_smoke.html" not in text
    project = yaml.safe_load((paths.report / "_quarto.yml").read_text())
    assert "07_triton_smoke" not in str(project)


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


def test_nothing_run_is_one_line(paths, capsys):
    shutil.rmtree(paths.report)
    with pytest.raises(RiceError, match="nothing to report yet; run: make report PROFILE=tiny"):
        main(["--profile", "tiny"])


def test_damaged_metrics_are_one_line(paths):
    paths.metrics("05_export").write_text("{}")
    with pytest.raises(RiceError, match=r"05_export\.json: not a metrics file"):
        read_results(paths)


def test_a_blank_that_nothing_fills_is_one_line(paths):
    with (paths.root / "reports/index.qmd").open("a") as template:
        template.write("{{ no_such_blank }}")
    with pytest.raises(RiceError, match=r"index\.qmd: 'no_such_blank' is undefined"):
        write_sources(paths)


def test_rendering_twice_is_the_same(paths):
    def snapshot():
        render(write_sources(paths), paths)
        made = ["_quarto.yml", "index.qmd", "pages", "docs", "site"]
        files = [f for name in made for f in [paths.report / name, *(paths.report / name).rglob("*")] if f.is_file()]
        return {file: file.read_bytes() for file in files}

    assert snapshot() == snapshot()


def quarto(folder: Path, script: str) -> None:
    file = folder / "quarto"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)


def test_quarto_renders_where_it_is_installed(paths, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("bin")
    quarto(folder, 'echo "$@" > "$2/arguments"; mkdir "$2/site"; echo quarto > "$2/site/index.html"')
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    index = render(write_sources(paths), paths)
    assert index.read_text() == "quarto\n"
    assert (paths.report / "arguments").read_text().split() == ["render", str(paths.report), "--no-execute"]


def test_quarto_that_fails_is_one_line(paths, tmp_path_factory, monkeypatch):
    folder = tmp_path_factory.mktemp("bin")
    quarto(folder, "exit 3")
    monkeypatch.setenv("PATH", f"{folder}:{os.defpath}")
    with pytest.raises(RiceError, match=r"quarto could not render .* \(status 3\)"):
        render(write_sources(paths), paths)


def test_root_project_shows_the_smoke_profile():
    project = yaml.safe_load((ROOT / "_quarto.yml").read_text())
    listed = re.findall(r"reports/smoke/[\w/]+\.(?:qmd|ipynb)", str(project))
    assert set(listed) == {"reports/smoke/index.qmd", *(f"reports/smoke/pages/{name}.ipynb" for name in NOTEBOOKS)}
