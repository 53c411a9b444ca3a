"""The report's sources: a self-contained Quarto website project in `reports/<profile>/`.

`_quarto.yml` and `styles.css` are the checkout's, made relative; `index.qmd` is `reports/index.qmd` with its blanks
filled; `pages/` holds the executed notebooks with a title and without the noise of their stderr.
"""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

import nbformat
from ruamel.yaml import YAML

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path, write_text
from rice_lib.common.paths import NOTEBOOKS, Paths
from rice_lib.report import tables
from rice_lib.report.results import Results, read_results

_BLANK = re.compile(r"<!-- report:(\w+) -->\n.*?<!-- /report -->", re.DOTALL)
_HEADING = re.compile(r"\A\s*#[ \t]+(.+?)[ \t]*(?:\n|\Z)")
_FIGURE = re.compile(r"""paths\.figure\(\s*["']([\w.-]+)["']\s*\)""")


@dataclass(frozen=True)
class Page:
    """One notebook's page: its title, its notebook in `pages/`, and the figures it gives to the summary."""

    name: str
    title: str
    file: Path
    figures: dict[str, bytes]


@dataclass(frozen=True)
class Sources:
    """The website's sources: the folder, the summary and the notebooks' pages in order."""

    folder: Path
    index: Path
    pages: tuple[Page, ...]
    results: Results


def write_sources(paths: Paths) -> Sources:
    """Lay out the website's sources of a profile.

    Raises:
        RiceError: nothing has run yet, or a file of the report is missing or broken.
    """
    results = read_results(paths)
    for name in ("pages", "images"):
        shutil.rmtree(paths.report / name, ignore_errors=True)
    pages = tuple(_write_page(name, paths) for name in NOTEBOOKS if paths.notebook(name).is_file())
    for page in pages:
        for figure, content in page.figures.items():
            with atomic_path(paths.report / "images" / f"{figure}.png") as temporary:
                temporary.write_bytes(content)
    write_text(paths.report / "styles.css", _template(paths, "reports/styles.css"))
    write_text(paths.report / "_quarto.yml", _project(paths, {page.name for page in pages}))
    index = paths.report / "index.qmd"
    write_text(index, fill(_template(paths, "reports/index.qmd"), _blanks(results, pages)))
    return Sources(paths.report, index, pages, results)


def fill(template: str, blanks: Mapping[str, str]) -> str:
    """Put text between each `<!-- report:NAME -->` and `<!-- /report -->`.

    Raises:
        RiceError: a blank in the template that nothing fills, or one that the template lacks.
    """
    names = _BLANK.findall(template)
    if wrong := set(names) ^ set(blanks):
        raise RiceError(f"reports/index.qmd: blanks do not match what the report has: {', '.join(sorted(wrong))}")
    return _BLANK.sub(lambda match: blanks[match[1]], template)


def raw_html(html: str) -> str:
    """HTML that markdown, Quarto's included, leaves as it is."""
    return f"```{{=html}}\n{html}\n```"


def _blanks(results: Results, pages: tuple[Page, ...]) -> dict[str, str]:
    html = {
        "images": _images_banner(results),
        "headline": tables.headline(results),
        "figures": _gallery(pages),
        "export": tables.metric_list(results, "05_export"),
        "benchmark": tables.benchmark(results),
        "serving": tables.metric_list(results, "07_triton_smoke"),
        "not_measured": tables.not_measured(results),
        "reproduction": tables.reproduction(results),
        "everything": tables.everything(results),
        "versions": tables.versions(results),
    }
    return {name: raw_html(part) for name, part in html.items()} | {"commands": _commands(results)}


def _images_banner(results: Results) -> str:
    """The report's first line: which images it is about, and whether all notebooks were about the same."""
    told = {
        "synthetic": "<strong>Generated images, not photographs.</strong> Everything on this page was measured on "
        "grains that this project draws itself, to try the whole way out. It says nothing about real rice.",
        "folder": "<strong>Photographs from a folder</strong> that the user named.",
        "zip": "<strong>Photographs from a zip archive</strong> that the user named.",
        "kaggle": "<strong>The public Rice Image Dataset</strong>, downloaded from Kaggle.",
    }
    lines = [
        (told.get(source, f"Images from {escape(source)}."), "loud" if source == "synthetic" else "plain")
        for source in results.one("source")
    ]
    if len(lines) > 1 or len(results.one("data")) > 1:
        lines.insert(0, ("<strong>The notebooks below ran on different images</strong>; run them again.", "loud"))
    if len(commits := results.one("commit")) > 1:
        lines.append((f"The notebooks ran at different commits: {escape(', '.join(commits))}.", "plain"))
    if results.missing:
        lines.append((f"Not run yet: {', '.join(results.missing)}.", "loud"))
    images = next((metric.value for _, name, metric in results.metrics() if name == "images" and metric.value), None)
    counted = f" {images:,.0f} images." if images else ""
    profile = f'{counted} <span class="profile">Profile <code>{escape(results.profile)}</code>.</span>'
    return "\n".join(
        f'<div class="banner {kind}">{text}{profile if k == 0 else ""}</div>' for k, (text, kind) in enumerate(lines)
    )


def _gallery(pages: tuple[Page, ...]) -> str:
    figures = [
        f'<figure><a href="images/{figure}.png"><img src="images/{figure}.png" alt="{escape(_caption(figure))}"'
        f' loading="lazy"></a><figcaption>{escape(_caption(figure))}, from '
        f"{tables.page_link(page.name, page.title)}</figcaption></figure>"
        for page in pages
        for figure in page.figures
    ]
    inside = "\n".join(figures)
    return f'<div class="gallery">\n{inside}\n</div>' if figures else '<p class="nothing">No figures.</p>'


def _caption(figure: str) -> str:
    return re.sub(r"^\d+_", "", figure).replace("_", " ").capitalize()


def _commands(results: Results) -> str:
    profile = results.profile
    return (
        f"`make report PROFILE={profile}` makes all of it, and runs only what changed. One notebook again, whatever "
        "changed, is the command in its row below (with the environment active: `source .venv/bin/activate`). A "
        "score alone, from the model and the test images:\n\n"
        "```bash\n"
        f"python -m rice_lib evaluate --model models/{profile}/vit/random --split test --profile {profile}\n"
        "```\n\n"
        "A run's parameters, curves and files are in MLflow under the run's id: "
        "`mlflow ui --backend-store-uri sqlite:///mlruns/mlflow.db`."
    )


def _write_page(name: str, paths: Paths) -> Page:
    source = paths.notebook(name)
    try:
        notebook = nbformat.read(source, as_version=4)
    except Exception as error:  # nbformat lets through what its JSON, schema and file reading raise
        raise RiceError(f"{source}: not a notebook ({error}); run it again") from None
    title = _take_title(notebook) or name
    for cell in notebook.cells:
        if cell.cell_type == "code":
            # progress bars and libraries' warnings: the executed notebook in notebooks/ keeps them
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    figures = _figures(notebook)
    _describe_images(notebook, title)
    front_matter = nbformat.v4.new_raw_cell(f"---\n{_yaml({'title': title})}---", id="front-matter")
    notebook.cells.insert(0, front_matter)
    target = paths.report / "pages" / f"{name}.ipynb"
    write_text(target, nbformat.writes(notebook) + "\n")
    return Page(name, title, target, figures)


def _take_title(notebook: nbformat.NotebookNode) -> str | None:
    """The text of the heading that the first markdown cell begins with, taken out of it."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and "papermill-error-cell-tag" not in cell.metadata.get("tags", []):
            match = _HEADING.match(cell.source)
            if match:
                cell.source = cell.source[match.end() :].lstrip("\n")
            return match[1] if match else None
    return None


def _figures(notebook: nbformat.NotebookNode) -> dict[str, bytes]:
    """The figures that cells save with `paths.figure("NAME")`, read from those cells' outputs.

    The outputs rather than the saved files: those could be another run's.
    """
    found: dict[str, bytes] = {}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            names = _FIGURE.findall(cell.source)
            found |= {
                name: base64.b64decode(output.data["image/png"])
                for name, output in zip(names, _images(cell), strict=False)
            }
    return found


def _describe_images(notebook: nbformat.NotebookNode, title: str) -> None:
    """Give every image an alternative text: the name of the figure, else the page's title."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            names = [_caption(name) for name in _FIGURE.findall(cell.source)]
            for k, output in enumerate(_images(cell)):
                output.metadata.setdefault("image/png", {})["alt"] = names[k] if k < len(names) else title


def _images(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [output for output in cell.outputs if "image/png" in output.get("data", {})]


def _project(paths: Paths, pages: set[str]) -> str:
    """The checkout's `_quarto.yml` for the profile's folder: paths made relative to it, pages that are not there left
    out."""
    prefix = "reports/smoke/"

    def relative(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: relative(item) for key, item in value.items()}
        if isinstance(value, list):
            return [relative(item) for item in value if _page_of(item) is None or _page_of(item) in pages]
        return value.removeprefix(prefix) if isinstance(value, str) else value

    project = relative(YAML(typ="safe").load(_template(paths, "_quarto.yml")))
    project["project"]["output-dir"] = "site"
    project["format"]["html"]["css"] = "styles.css"
    return f"# Made from the _quarto.yml at the root by `make report`; change that one.\n{_yaml(project)}"


def _page_of(value: Any) -> str | None:
    match = re.fullmatch(r".*/pages/(\w+)\.ipynb", value) if isinstance(value, str) else None
    return match and match[1]


def _yaml(value: Any) -> str:
    yaml = YAML()
    yaml.default_flow_style = False
    stream = StringIO()
    yaml.dump(value, stream)
    return stream.getvalue()


def _template(paths: Paths, name: str) -> str:
    file = paths.root / name
    if not file.is_file():
        raise RiceError(f"{file}: missing from the checkout; get it back with: git checkout {name}")
    return file.read_text(encoding="utf-8")
