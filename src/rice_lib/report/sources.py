"""The report's sources: a self-contained Quarto website project in `reports/<profile>/`.

`_quarto.yml`, `styles.css` and `docs/` are the checkout's, paths made relative; `index.qmd` is the template
`reports/index.qmd`, filled; `pages/` holds the executed notebooks without bookkeeping and libraries' messages.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from html import escape
from pathlib import Path

import jinja2
import nbformat
import yaml

from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_text
from rice_lib.common.paths import NOTEBOOKS, STUDIES, Paths
from rice_lib.report import results as tables
from rice_lib.report import tables as markdown
from rice_lib.report.results import Results, read_results
from rice_lib.report.summary import Figures, answers, raw

_IMAGES = {
    "synthetic": "<strong>Generated images, not photographs.</strong> Everything on this page was measured on grains "
    "that this project draws itself, to try every step. It says nothing about real rice.",
    "folder": "<strong>Photographs from a folder</strong> of the user's.",
    "zip": "<strong>Photographs from a zip archive</strong> of the user's.",
    "kaggle": "<strong>The public Rice Image Dataset</strong>, downloaded from Kaggle.",
}

_IMAGE_TYPES = ("image/svg+xml", "image/jpeg", "image/png")


@dataclass(frozen=True)
class Page:
    """A page of the website: its source, its title, and its address in the site."""

    file: Path
    title: str
    href: str


@dataclass(frozen=True)
class Sources:
    """The website's sources: the folder, the profile, and the pages in order, the summary first."""

    folder: Path
    profile: str
    pages: tuple[Page, ...]


def write_sources(paths: Paths) -> Sources:
    """Write the website's sources of a profile.

    Raises:
        RiceError: nothing has run yet, or a file of the report is missing or broken.
    """
    results = read_results(paths)
    for name in ("pages", "docs"):
        shutil.rmtree(paths.report / name, ignore_errors=True)
        (paths.report / name).mkdir()
    notebooks, studies = (
        [_write_notebook(name, paths) for name in names if paths.notebook(name).is_file()]
        for names in (NOTEBOOKS, STUDIES)
    )
    for file in (paths.root / "docs").glob("*.qmd"):
        # what a page links to in the checkout is not in the site
        text = re.sub(r"\[([^]]+)\]\(\.\./[^)]*\)", r"\1", file.read_text(encoding="utf-8"))
        write_text(paths.report / "docs" / file.name, text)
    for drawing in (paths.root / "docs").glob("*.svg"):
        shutil.copyfile(drawing, paths.report / "docs" / drawing.name)
    figures = Figures(results, paths)
    figures.draw()
    write_text(paths.report / "styles.css", _template(paths, "reports/styles.css"))
    project = yaml.safe_load(_template(paths, "_quarto.yml").replace("reports/smoke/", ""))
    project["project"]["output-dir"] = "site"
    project["format"]["html"]["css"] = "styles.css"
    sidebar = project["website"]["sidebar"]["contents"]
    sidebar[1]["contents"] = [f"pages/{page.file.name}" for page in notebooks]
    if (published := paths.root / "docs" / "results").is_dir():
        shutil.copytree(published, paths.report / "docs" / "results")
        project["project"]["render"] += ["docs/results/index.qmd", "docs/results/pages/*.ipynb"]
        project["project"]["resources"] += ["docs/results/figures/*/*"]
        sidebar[2]["contents"].insert(0, "docs/results/index.qmd")
    if studies:
        contents = [page.file.relative_to(paths.report).as_posix() for page in studies]
        sidebar.insert(2, {"section": "Studies", "contents": contents})
    head = "# Made from the _quarto.yml at the root by `make report`; change that one.\n"
    write_text(paths.report / "_quarto.yml", head + yaml.safe_dump(project, sort_keys=False))
    index = paths.report / "index.qmd"
    write_text(index, fill(_template(paths, "reports/index.qmd"), results, figures))
    texts = [file for suffix in ("qmd", "ipynb") for file in sorted((paths.report / "docs").rglob(f"*.{suffix}"))]
    place = {name: number for number, name in enumerate(sidebar[-1]["contents"])}
    texts.sort(key=lambda file: place.get(file.relative_to(paths.report).as_posix(), len(place)))
    docs = [_page(file, file.relative_to(paths.report)) for file in texts]
    return Sources(paths.report, paths.profile, (_page(index, Path("index.qmd")), *notebooks, *studies, *docs))


def fill(template: str, results: Results, figures: Figures) -> str:
    """Fill the blanks of the summary page, `{{ name }}`.

    Raises:
        RiceError: the template is not Jinja, or names a blank that nothing fills.
    """
    classes = dict.fromkeys(str(m.of["variety"]) for _, _, m in results.metrics() if "variety" in m.of)
    blanks = {
        "profile": results.profile,
        "classes": markdown.escape(", ".join(classes) or "not counted yet"),
        "images": _banners(results),
        "headline": tables.headline(results),
        "answers": answers(results),
        "figure": figures,
        "more_figures": figures.rest,
        "benchmark": tables.benchmark(results),
        "serving": tables.metric_list(results, "07_triton_smoke"),
        "not_measured": tables.not_measured(results),
        "made_by": tables.made_by(results),
        "provenance": tables.provenance(results),
        "everything": tables.everything(results),
        "versions": tables.versions(results),
    }
    # {# begins one of Quarto's identifiers here, not a comment
    jinja = jinja2.Environment(undefined=jinja2.StrictUndefined, comment_start_string="{##", keep_trailing_newline=True)
    try:
        return jinja.from_string(template).render(blanks)
    except jinja2.TemplateError as error:
        raise RiceError(f"reports/index.qmd: {error}; get it back with: git checkout reports/index.qmd") from None


def _page(file: Path, place: Path) -> Page:
    """Read the title from a page's front matter."""
    first = nbformat.read(file, as_version=4).cells[0].source if file.suffix == ".ipynb" else file.read_text("utf-8")
    title = yaml.safe_load(first.split("---")[1])["title"]
    return Page(file, str(title), place.with_suffix(".html").as_posix())


def _banners(results: Results) -> str:
    """The report's first lines: which images it is about, and whether all notebooks were about the same."""
    lines = [(_IMAGES.get(s, f"Images from {escape(s)}."), s == "synthetic") for s in results.one("source")]
    images = next((m.value for _, key, m in results.metrics() if key == "images" and m.value), None)
    counted = f" {images:,.0f} images." if images else ""
    profile = f'{counted} <span class="profile">Profile <code>{escape(results.profile)}</code>.</span>'
    lines[:1] = [(text + profile, loud) for text, loud in lines[:1]]
    if len(lines) > 1 or len(results.one("data")) > 1:
        lines.insert(0, ("<strong>The notebooks below ran on different images</strong>; run them again.", True))
    if len(commits := results.one("commit")) > 1:
        lines.append((f"The notebooks ran at different commits: {escape(', '.join(commits))}.", False))
    if results.missing:
        lines.append((f"Not run yet: {', '.join(results.missing)}.", True))
    return raw("\n".join(f'<div class="banner{" loud" if loud else ""}">{text}</div>' for text, loud in lines))


def _write_notebook(name: str, paths: Paths) -> Page:
    """Copy an executed notebook for the reader: no default parameters, bookkeeping, warnings or progress bars."""
    source = paths.notebook(name)
    try:
        notebook = nbformat.read(source, as_version=4)
    except Exception as error:  # nbformat lets through what its JSON, schema and file reading raise
        raise RiceError(
            f"{source}: not a notebook ({error}); run: rice stage {name} --profile {paths.profile}"
        ) from None
    tags = {tag for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    hidden = {"remove-cell", *({"parameters"} if "injected-parameters" in tags else ())}
    cells = [(_anchor(cell), cell) for cell in notebook.cells]
    shown = [(place, cell) for place, cell in cells if not hidden.intersection(cell.metadata.get("tags", []))]
    ends = [place for place, cell in cells if "remove-cell" in cell.metadata.get("tags", [])]
    notebook.cells = [cell for pair in shown for cell in pair if cell is not None] + [end for end in ends if end]
    title = name
    for cell in notebook.cells:
        if cell.cell_type == "markdown" and cell.source.startswith("# ") and title == name:
            heading, _, rest = cell.source.partition("\n")
            title, cell.source = heading.removeprefix("# ").strip(), rest.lstrip("\n")
        if cell.cell_type == "code":
            if "injected-parameters" in cell.metadata.get("tags", []):
                cell.metadata["code-summary"] = "Parameters of this run"
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            _describe_images(cell, title)
    front_matter = yaml.safe_dump({"title": title}, allow_unicode=True)
    notebook.cells.insert(0, nbformat.v4.new_raw_cell(f"---\n{front_matter}---", id="front-matter"))
    target = paths.report / "pages" / f"{name}.ipynb"
    write_text(target, nbformat.writes(notebook) + "\n")
    return Page(target, title, f"pages/{name}.html")


def _anchor(cell: nbformat.NotebookNode) -> nbformat.NotebookNode | None:
    """Mark the place of an executed cell, which the summary's numbers link to."""
    if not cell.get("execution_count"):
        return None
    name = tables.anchor(cell.execution_count)
    return nbformat.v4.new_markdown_cell(f'<a id="{name}"></a>', id=name)


def _describe_images(cell: nbformat.NotebookNode, title: str) -> None:
    """Give nbconvert the alternative texts that the cell's `fig-alt` gives Quarto."""
    texts = cell.metadata.get("fig-alt", title)
    images = [(output, kind) for output in cell.outputs for kind in _IMAGE_TYPES if kind in output.get("data", {})]
    for number, (output, kind) in enumerate(images):
        alternative = texts if isinstance(texts, str) else texts[min(number, len(texts) - 1)]
        output.metadata.setdefault(kind, {})["alt"] = alternative


def _template(paths: Paths, name: str) -> str:
    file = paths.root / name
    if not file.is_file():
        raise RiceError(f"{file}: missing from the checkout; get it back with: git checkout {name}")
    return file.read_text(encoding="utf-8")
