"""Rendering the website's sources: Quarto where it is installed, else nbconvert with the same pages and navigation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_text
from rice_lib.common.paths import Paths
from rice_lib.report.sources import Sources

_TEMPLATES = Path(__file__).parent / "template"
_FRONT_MATTER = re.compile(r"\A---\n(?P<yaml>.*?)\n---\n", re.DOTALL)
_RAW_HTML = re.compile(r"```\{=html\}\n(.*?)\n```", re.DOTALL)
_ATTRIBUTES = re.compile(r"^(#{1,6} .*?)\s*\{#([\w-]+)\}$", re.MULTILINE)
_SECTION = re.compile(r'<h2[^>]*\bid="([^"]+)"[^>]*>(.*?)</h2>', re.DOTALL)


def render(sources: Sources, paths: Paths) -> Path:
    """Render to `reports/<profile>/site/`.

    Returns:
        The site's `index.html`.

    Raises:
        RiceError: Quarto is installed and failed (what it said is on stderr).
    """
    site = paths.report / "site"
    shutil.rmtree(site, ignore_errors=True)
    quarto = shutil.which("quarto")
    if quarto:
        _render_with_quarto(quarto, sources.folder)
    else:
        _render_with_nbconvert(sources, site)
    return site / "index.html"


def _render_with_quarto(quarto: str, folder: Path) -> None:
    # QUARTO_PYTHON: Quarto looks for a Jupyter when it meets a notebook, though it executes nothing
    environment = {**os.environ, "QUARTO_PYTHON": sys.executable}
    done = subprocess.run([quarto, "render", str(folder), "--no-execute"], env=environment, check=False)
    if done.returncode or not (folder / "site" / "index.html").is_file():
        raise RiceError(f"quarto could not render {folder} (status {done.returncode}); see above", status=1)


@dataclass(frozen=True)
class _Link:
    href: str
    title: str


def _render_with_nbconvert(sources: Sources, site: Path) -> None:
    from nbconvert import HTMLExporter
    from nbconvert.filters.markdown import markdown2html

    exporter = HTMLExporter(template_name="notebook", extra_template_basedirs=[str(_TEMPLATES)])
    links = [_Link("index.html", "Summary"), *(_Link(f"pages/{p.name}.html", p.title) for p in sources.pages)]
    title, markdown = _split_front_matter(sources.index.read_text(encoding="utf-8"))
    blocks: list[str] = []

    def put_aside(match: re.Match[str]) -> str:
        blocks.append(match[1])
        return f"\n<!-- raw {len(blocks) - 1} -->\n"

    body = markdown2html(_ATTRIBUTES.sub(r'\1<a id="\2"></a>', _RAW_HTML.sub(put_aside, markdown)))
    body = re.sub(r"<!-- raw (\d+) -->", lambda match: blocks[int(match[1])], body)
    frame = _Frame(site, links, sources.results.profile)
    frame.write(0, title, body)
    for k, page in enumerate(sources.pages, start=1):
        body, _ = exporter.from_filename(str(page.file))
        frame.write(k, page.title, body)
    shutil.copyfile(sources.folder / "styles.css", site / "styles.css")
    if (images := sources.folder / "images").is_dir():
        shutil.copytree(images, site / "images")


@dataclass(frozen=True)
class _Frame:
    """What stands around every page's content: the head, the navigation, the way to the next page."""

    site: Path
    links: list[_Link]
    profile: str

    def write(self, current: int, title: str, body: str) -> None:
        from jinja2 import Environment, FileSystemLoader
        from pygments.formatters import HtmlFormatter

        jinja = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, trim_blocks=True, lstrip_blocks=True)
        links = self.links
        values: dict[str, Any] = {
            "root": "" if current == 0 else "../",
            "title": title,
            "profile": self.profile,
            "body": body,
            "links": links,
            "current": current,
            "sections": [(id_, _text_of(heading)) for id_, heading in _SECTION.findall(body)],
            "before": links[current - 1] if current else None,
            "after": links[current + 1] if current + 1 < len(links) else None,
            "highlighting": HtmlFormatter(style="default").get_style_defs(".highlight"),
            "layout": (_TEMPLATES / "layout.css").read_text(encoding="utf-8"),
        }
        write_text(self.site / links[current].href, jinja.get_template("page.html.j2").render(values) + "\n")


def _split_front_matter(text: str) -> tuple[str, str]:
    from ruamel.yaml import YAML

    match = _FRONT_MATTER.match(text)
    if not match:
        raise RiceError("reports/index.qmd: has no front matter with a title")
    return str(YAML(typ="safe").load(match["yaml"])["title"]), text[match.end() :]


def _text_of(heading: str) -> str:
    without_anchor = re.sub(r'<a class="anchor-link".*?</a>', "", heading, flags=re.DOTALL)
    return re.sub(r"<[^>]+>", "", without_anchor).strip()
