"""The report's pages, the project for Quarto, and what happens without Quarto, notebooks or metrics."""

from __future__ import annotations

import os
import re
import shutil
import stat
from html.parser import HTMLParser
from pathlib import Path

import nbformat
import pytest
import yaml
from support.report import PIXEL, ROOT

from rice_lib.cli.report import main
from rice_lib.common.errors import RiceError
from rice_lib.common.paths import NOTEBOOKS
from rice_lib.report.render import render
from rice_lib.report.results import read_metrics
from rice_lib.report.sources import write_sources

PAGES = {".qmd", ".ipynb"}


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


def test_nothing_run_is_one_line(paths, capsys):
    shutil.rmtree(paths.report)
    with pytest.raises(RiceError, match="nothing to report yet; run: make report PROFILE=tiny"):
        main(["--profile", "tiny"])


def test_damaged_metrics_are_one_line(paths):
    paths.metrics("05_export").write_text("{}")
    with pytest.raises(RiceError, match=r"05_export\.json: not a metrics file"):
        read_metrics(paths.report / "metrics", paths.profile)


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
