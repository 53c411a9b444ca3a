"""The report's sources: a self-contained Quarto website project in `reports/<profile>/`.

`_quarto.yml`, `styles.css` and `docs/` are the checkout's, paths made relative; `index.qmd` is the template
`reports/index.qmd`, filled; `pages/` holds the executed notebooks without bookkeeping and libraries' messages.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import jinja2
import nbformat
import yaml

from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_text
from rice_lib.common.paths import NOTEBOOKS, STUDIES, Paths
from rice_lib.report import results as tables
from rice_lib.report import summary
from rice_lib.report import tables as markdown
from rice_lib.report.results import Results, read_metrics
from rice_lib.report.summary import Figures

TEMPLATES = Path(__file__).parent / "template"

_IMAGE_TYPES = ("image/svg+xml", "image/jpeg", "image/png")


@dataclass(frozen=True)
class Page:
    """A page of the website: its source, its title, and its address in the site."""

    file: Path
    title: str
    href: str


def write_sources(paths: Paths) -> list[Page]:
    """Write the website's sources of a profile to `paths.report`; returns its pages in order, the summary first.

    Raises `RiceError` where nothing has run yet, or a file of the report is missing or broken.
    """
    results = read_metrics(paths.report / "metrics", paths.profile)
    for name in ("pages", "docs"):
        shutil.rmtree(paths.report / name, ignore_errors=True)
    notebooks, studies = (
        [_write_notebook(name, paths) for name in names if paths.notebook(name).is_file()]
        for names in (NOTEBOOKS, STUDIES)
    )
    shutil.copytree(paths.root / "docs", paths.report / "docs")
    for file in (paths.report / "docs").glob("*.qmd"):
        # what a page links to in the checkout is not in the site
        write_text(file, re.sub(r"\[([^]]+)\]\(\.\./[^)]*\)", r"\1", file.read_text(encoding="utf-8")))
    figures = Figures(results, paths)
    figures.draw()
    write_text(paths.report / "styles.css", _template(paths, "reports/styles.css"))
    project = yaml.safe_load(_template(paths, "_quarto.yml").replace("reports/smoke/", ""))
    project["project"]["output-dir"] = "site"
    project["format"]["html"]["css"] = "styles.css"
    sidebar = project["website"]["sidebar"]["contents"]
    sidebar[1]["contents"] = notebooks
    if (paths.root / "docs" / "results").is_dir():
        project["project"]["render"] += ["docs/results/index.qmd", "docs/results/pages/**/*.ipynb"]
        project["project"]["resources"] += ["docs/results/figures/**"]
        sidebar[2]["contents"].insert(0, "docs/results/index.qmd")
    if studies:
        sidebar.insert(2, {"section": "Studies", "contents": studies})
    head = "# Made from the _quarto.yml at the root by `make report`; change that one.\n"
    write_text(paths.report / "_quarto.yml", head + yaml.safe_dump(project, sort_keys=False))
    index = paths.report / "index.qmd"
    write_text(index, fill(_template(paths, "reports/index.qmd"), results, figures))
    docs = [file for suffix in ("qmd", "ipynb") for file in sorted((paths.report / "docs").rglob(f"*.{suffix}"))]
    place = {name: number for number, name in enumerate(sidebar[-1]["contents"])}
    docs.sort(key=lambda file: place.get(file.relative_to(paths.report).as_posix(), len(place)))
    return [_page(file, paths) for file in (index, *(paths.report / name for name in (*notebooks, *studies)), *docs)]


def _page(file: Path, paths: Paths) -> Page:
    """Read a page's title from its front matter."""
    first = nbformat.read(file, as_version=4).cells[0].source if file.suffix == ".ipynb" else file.read_text("utf-8")
    title = str(yaml.safe_load(first.split("---")[1])["title"])
    return Page(file, title, file.relative_to(paths.report).with_suffix(".html").as_posix())


def fill(template: str, results: Results, figures: Figures) -> str:
    """Fill the summary page by the macros of `template/summary.qmd.j2`.

    Raises `RiceError` where the template is not Jinja, or names a blank that nothing fills.
    """
    classes = dict.fromkeys(str(m.of["variety"]) for _, _, m in results.metrics() if "variety" in m.of)
    found, (fastest, speed_text) = tables.accuracies(results), summary.speed(results)
    kinds = {kind for metrics in found.values() for kind, metric in metrics.items() if metric.value is not None}
    blanks = {
        "results": results,
        "figures": figures,
        "classes": markdown.escape(", ".join(classes) or "not counted yet"),
        "images": next((m.value for _, key, m in results.metrics() if key == "images"), None),
        "answered": summary.answers(results),
        "speed": fastest,
        "speed_text": speed_text,
        "accuracies": found,
        "kinds": [kind for kind in dict.fromkeys([*tables.KINDS.values(), *sorted(kinds)]) if kind in kinds],
        "not_measured": tables.not_measured(results),
        "package_versions": {n: v for r in results.recorded for n, v in r.provenance.get("versions", {}).items()},
        **{each.__name__: each for each in (tables.stage_of, tables.subject)},
    }
    # {# begins one of Quarto's identifiers here, not a comment
    jinja = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True,
        comment_start_string="{##", comment_end_string="##}", trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    jinja.filters |= {"md": markdown.escape, "shown": markdown.metric}
    try:
        return jinja.from_string(template).render(blanks)
    except jinja2.TemplateError as error:
        raise RiceError(f"reports/index.qmd: {error}; get it back with: git checkout reports/index.qmd") from None


def _write_notebook(name: str, paths: Paths) -> str:
    """Copy an executed notebook for the reader: no default parameters, bookkeeping, warnings or progress bars.

    Returns its place in the report.
    """
    source = paths.notebook(name)
    try:
        notebook = nbformat.read(source, as_version=4)
    except Exception as error:  # nbformat lets through what its JSON, schema and file reading raise
        raise RiceError(
            f"{source}: not a notebook ({error}); run: rice stage {name} --profile {paths.profile}"
        ) from None
    injected = any("injected-parameters" in _tags(cell) for cell in notebook.cells)
    title, shown, places = name, [], []
    for cell in notebook.cells:
        if "remove-cell" in _tags(cell):
            places += _place(cell)  # at the end: the summary's numbers link to it
            continue
        if "parameters" in _tags(cell) and injected:
            continue
        if cell.cell_type == "markdown" and cell.source.startswith("# ") and title == name:
            heading, _, rest = cell.source.partition("\n")
            title, cell.source = heading.removeprefix("# ").strip(), rest.lstrip("\n")
        if cell.cell_type == "code":
            if "injected-parameters" in _tags(cell):
                cell.metadata["code-summary"] = "Parameters of this run"
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            _describe_images(cell, title)
        shown += [*_place(cell), cell]
    front_matter = yaml.safe_dump({"title": title}, allow_unicode=True)
    first = nbformat.v4.new_raw_cell(f"---\n{front_matter}---", id="front-matter")
    notebook.cells = [first, *shown, *places]
    place = f"pages/{name}.ipynb"
    write_text(paths.report / place, nbformat.writes(notebook) + "\n")
    return place


def _tags(cell: nbformat.NotebookNode) -> list[str]:
    return cell.metadata.get("tags", [])


def _place(cell: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Mark the place of an executed cell, which the summary's numbers link to; empty for other cells."""
    if not cell.get("execution_count"):
        return []
    name = tables.anchor(cell.execution_count)
    return [nbformat.v4.new_markdown_cell(f'<a id="{name}"></a>', id=name)]


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
