"""Rendering of the website: with Quarto where it is installed, else with nbconvert in a frame of our own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_text
from rice_lib.common.paths import Paths
from rice_lib.report.sources import TEMPLATES, Page

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_RAW_HTML = re.compile(r"```\{=html\}\n(.*?)\n```", re.DOTALL)
_IDENTIFIER = re.compile(r"^(#{1,6} .*?)\s*\{#([\w-]+)\}$", re.MULTILINE)
_SECTION = re.compile(r'<h2[^>]*\bid="([^"]+)"[^>]*>(.*?)</h2>', re.DOTALL)
_MARKUP = re.compile(r'<a class="anchor-link".*?</a>|<[^>]+>', re.DOTALL)


def render(pages: Sequence[Page], paths: Paths) -> Path:
    """Render what `write_sources` wrote to `reports/<profile>/site/`; returns the site's `index.html`.

    Raises `RiceError` where Quarto is installed and failed (what it said is on stderr).
    """
    site = paths.report / "site"
    shutil.rmtree(site, ignore_errors=True)
    if quarto := shutil.which("quarto"):
        # QUARTO_PYTHON: Quarto looks for a Jupyter when it meets a notebook, though it executes nothing
        environment = {**os.environ, "QUARTO_PYTHON": sys.executable}
        done = subprocess.run([quarto, "render", str(paths.report), "--no-execute"], env=environment, check=False)
        if done.returncode or not (site / "index.html").is_file():
            raise RiceError(f"quarto could not render {paths.report} (status {done.returncode}); see above", status=1)
    else:
        _render_with_nbconvert(pages, paths)
    return site / "index.html"


def _render_with_nbconvert(pages: Sequence[Page], paths: Paths) -> None:
    site = paths.report / "site"
    # the notebooks of published results are reached from their own summary
    listed = [page for page in pages if "results/pages" not in page.href]
    neighbours = dict(zip(listed, zip([None, *listed], [*listed[1:], None], strict=False), strict=True))
    for page in pages:
        before, after = neighbours.get(page, (None, None))
        place = {"links": listed, "current": page, "before": before, "after": after, "profile": paths.profile}
        write_text(site / page.href, _framed(page.file, page.title, root="../" * page.href.count("/"), **place))
    shutil.copyfile(paths.report / "styles.css", site / "styles.css")
    for folder in ("figures", "docs"):
        sources = shutil.ignore_patterns("*.qmd", "*.ipynb")
        shutil.copytree(paths.report / folder, site / folder, ignore=sources, dirs_exist_ok=True)


def render_page(page: Path, title: str, style_sheet: Path) -> Path:
    """Render one Markdown page beside itself, with nbconvert, as `index.html`; returns that."""
    target = page.with_name("index.html")
    write_text(target, _framed(page, title, root="", profile=None, links=(), current=None))
    shutil.copyfile(style_sheet, page.with_name("styles.css"))
    return target


def _framed(page: Path, title: str, **place: Any) -> str:
    """The HTML of a page in the frame of the site; `place` fills the frame's other blanks."""
    from jinja2 import Environment, FileSystemLoader
    from pygments.formatters import HtmlFormatter

    jinja = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    body = _body(page).replace("<pre>", '<pre tabindex="0">')  # the keyboard scrolls what is too wide
    html = jinja.get_template("page.html.j2").render(
        title=title,
        body=body,
        sections=[(name, _MARKUP.sub("", heading).strip()) for name, heading in _SECTION.findall(body)],
        highlighting=HtmlFormatter(style="default").get_style_defs(".highlight"),
        layout=(TEMPLATES / "layout.css").read_text(encoding="utf-8"),
        **place,
    )
    return html + "\n"


def _body(page: Path) -> str:
    """The HTML of a page's content: a notebook, or Markdown with Quarto's raw HTML, identifiers and links to pages."""
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown import markdown2html

    if page.suffix == ".ipynb":
        exporter = HTMLExporter(template_name="notebook", extra_template_basedirs=[str(TEMPLATES)])
        return exporter.from_filename(str(page))[0]
    text = _FRONT_MATTER.sub("", page.read_text(encoding="utf-8"))
    text = _RAW_HTML.sub(r"\1", _IDENTIFIER.sub(r'\1<a id="\2"></a>', text))
    return markdown2html(re.sub(r"(\]\([\w/-]+)\.qmd", r"\1.html", text))
