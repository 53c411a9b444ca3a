"""Notebooks are committed without outputs, begin alike, show tables for people, and record their metrics at the end."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import nbformat
import pytest

from rice_lib.common.parameters import Params
from rice_lib.common.paths import NOTEBOOKS, STUDIES

FOLDER = Path(__file__).parents[2] / "notebooks"
SECTIONS = [name for name in Params.model_fields if name != "profile"]
COMMENT = "# None: as in params/<profile>.yaml. papermill -f params/<profile>.yaml fills them in."
OLD_WORDS = re.compile(
    r"\b(told|tells?|teller|refus\w+|surest|rival\w*|promis\w*|hostile|wrongly|rightly|goes? on|went on|anew|journal)\b"
    r"|\bmanieth\b|\bground\b",
    re.IGNORECASE,
)


def calls_in(source: str, name: str) -> list[ast.Call]:
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func) == name]


def test_the_seven_the_studies_and_no_other():
    found = [file.relative_to(FOLDER).with_suffix("").as_posix() for file in FOLDER.rglob("*.ipynb")]
    found = [name for name in found if ".ipynb_checkpoints" not in name]  # JupyterLab's own copies
    assert sorted(found) == sorted([*NOTEBOOKS, *STUDIES])


@pytest.fixture(params=[*NOTEBOOKS, *STUDIES])
def notebook(request):
    return nbformat.read(FOLDER / f"{request.param}.ipynb", as_version=4)


def code_of(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_has_no_outputs_and_nothing_of_the_machine_it_was_written_on(notebook):
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert [cell.id for cell in code_of(notebook) if cell.outputs or cell.execution_count is not None] == []
    assert set(notebook.metadata) <= {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert set(notebook.metadata.get("language_info", {})) <= {"name"}
    assert all(set(cell.metadata) <= {"tags", "code-fold", "code-summary", "fig-alt"} for cell in notebook.cells)


def test_begins_with_its_contract(notebook, request):
    first = notebook.cells[0]
    folder, _, name = request.node.callspec.params["notebook"].rpartition("/")
    number = f"Study {name[:2]}" if folder else name[:2]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {number} ")
    assert "**Reads**" in first.source
    assert "**Writes**" in first.source


def test_second_cell_is_the_profile_and_the_sections_that_the_notebook_reads(notebook):
    cell = notebook.cells[1]
    assert cell.metadata.tags == ["parameters"]
    assert cell.metadata["code-summary"] == "Parameters"
    assert sum("parameters" in c.metadata.get("tags", []) for c in notebook.cells) == 1
    comment, profile, *sections = cell.source.strip().splitlines()
    assert (comment, profile) == (COMMENT, 'profile = "smoke"')
    read = set(re.findall(r"\bparams\.(\w+)", "\n".join(c.source for c in code_of(notebook)))) & set(SECTIONS)
    declared = [line.removesuffix(" = None") for line in sections]
    assert declared == [name for name in SECTIONS if name in declared], "in the order of the profile"
    assert read <= set(declared)
    assert set(declared) - read <= {"data", "seed", "serve", "benchmark", "tracking"}, "read by the library"
    assert "tracking" in declared


def test_third_cell_imports_and_opens_the_run_with_every_parameter(notebook):
    cell = notebook.cells[2]
    assert cell.metadata["code-summary"] == "Imports"
    declared = [line.removesuffix(" = None") for line in notebook.cells[1].source.strip().splitlines()[2:]]
    (opened,) = calls_in(cell.source, "Run.open")
    assert [ast.unparse(argument) for argument in opened.args] == ["profile"]
    assert {keyword.arg: ast.unparse(keyword.value) for keyword in opened.keywords} == {n: n for n in declared}


def test_no_cell_assigns_to_a_parameter(notebook):
    for cell in code_of(notebook)[1:]:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assert node.id not in {"profile", *SECTIONS}, f"{cell.id}: {node.id}"


def test_last_cell_records_and_is_not_on_the_page(notebook, request):
    name = request.node.callspec.params["notebook"]
    assert notebook.cells[-1].metadata.tags == ["remove-cell"]
    (recorded,) = calls_in(notebook.cells[-1].source, "record")
    assert ast.unparse(recorded.args[0]) == "run"
    assert ast.literal_eval(recorded.args[1]) == name
    code = "\n".join(cell.source for cell in code_of(notebook)[:-1])
    assert not calls_in(code, "record")


def test_figures_of_the_summary_page_are_saved_and_recorded_under_one_name(notebook, request):
    name = request.node.callspec.params["notebook"]
    code = "\n".join(cell.source for cell in code_of(notebook))
    saved = [call.args for call in calls_in(code, "paths.figure")]
    assert {ast.unparse(arguments[0]) for arguments in saved} <= {repr(name)}
    (recorded,) = calls_in(notebook.cells[-1].source, "record")
    assert "figures" in {keyword.arg for keyword in recorded.keywords}
    keys = [key for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Dict) for key in node.keys if key]
    keys += [node.key for node in ast.walk(ast.parse(code)) if isinstance(node, ast.DictComp)]
    assert {ast.unparse(arguments[1]) for arguments in saved} <= {ast.unparse(key) for key in keys}


def assigned_in(cell):
    """Names that a cell assigns outside its functions and comprehensions; `|=` extends, and does not count."""
    inner = (ast.AugAssign, ast.FunctionDef, ast.Lambda, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)
    names, waiting = set(), [ast.parse(cell.source)]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        waiting += [child for child in ast.iter_child_nodes(node) if not isinstance(child, inner)]
    return names


def test_what_is_recorded_was_not_overwritten_by_a_later_cell(notebook):
    """A sentence of one cell was once replaced by another's of the same name before the last cell recorded it."""
    *cells, last = code_of(notebook)[1:]  # the parameters come first, and may be completed
    names = [node for node in ast.walk(ast.parse(last.source)) if isinstance(node, ast.Name)]
    own = {node.id for node in names if isinstance(node.ctx, ast.Store)}
    read = {node.id for node in names} - own
    owners = {name: [cell.id for cell in cells if name in assigned_in(cell)] for name in read}
    assert {name: found for name, found in owners.items() if len(found) > 1} == {}


def test_figures_have_an_alternative_text(notebook):
    drawn = re.compile(r"\b(charts|images)\.\w+\(|style\.save\(")
    not_drawn = re.compile(r"(images\.(caption|most_confident_mistakes)|charts\.most_confused)\(")
    for cell in code_of(notebook):
        if drawn.search(not_drawn.sub("", cell.source)):
            assert cell.metadata.get("fig-alt"), cell.id


def test_a_figure_has_prose_before_it_and_a_computed_sentence_after_it(notebook):
    draws = re.compile(r"\b(charts|images)\.\w+\(|style\.save\(")
    names = re.compile(r"(images\.(caption|most_confident_mistakes)|charts\.most_confused)\(")
    kinds = ""
    for cell in notebook.cells:
        figure = cell.cell_type == "code" and draws.search(names.sub("", cell.source))
        said = cell.cell_type == "code" and re.search(r"^Markdown\(", cell.source, re.MULTILINE)
        # m: prose, f: a figure, s: a sentence, c: other code
        kinds += ("m" if cell.cell_type == "markdown" else "") + "f" * bool(figure) + "s" * bool(said)
        kinds += "" if figure or said or cell.cell_type == "markdown" else "c"
    assert not re.search(r"[fs]c*f", kinds), "a figure without prose before it"
    assert not re.search(r"fc*(m|$)", kinds), "a figure without a sentence after it"


def test_tables_are_for_people(notebook):
    """No HTML, which Quarto loads scripts for; no printed listings; no bare DataFrame at the end of a cell."""
    for cell in code_of(notebook)[:-1]:
        for found in (".style.", "to_html", "HTML(", "print("):
            assert found not in cell.source.replace("style.save", "").replace("style.use_style", ""), cell.id
        last = ast.parse(cell.source).body[-1]
        if isinstance(last, ast.Expr):
            shown = ast.unparse(last.value)
            assert not re.search(r"pd\.DataFrame|\.head\(|\.round\(", shown) or "show(" in shown, cell.id


def test_words_are_those_of_the_field(notebook):
    for cell in notebook.cells:
        text = re.sub(r"validation_refused", "", cell.source)
        assert not OLD_WORDS.findall(text), cell.id


def test_same_code_at_every_size(notebook):
    """A profile differs in its parameters alone: no code asks for its name."""
    for cell in code_of(notebook)[2:]:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.If | ast.IfExp):
                assert "profile" not in ast.unparse(node.test), cell.id


@pytest.mark.parametrize("study", STUDIES)
def test_a_study_names_its_rows_of_code_and_computes_its_captions(study):
    """Rows of folded code that stand together are not all called "Code"; a caption says what was found."""
    notebook = nbformat.read(FOLDER / f"{study}.ipynb", as_version=4)
    rows = [
        cell.metadata.get("code-summary", "Code")
        if cell.cell_type == "code" and not {"remove-input", "remove-cell"} & set(cell.metadata.get("tags", []))
        else ""
        for cell in notebook.cells
    ]
    assert [pair for pair in itertools.pairwise(rows) if pair == ("Code", "Code")] == []
    (recorded,) = calls_in(notebook.cells[-1].source, "record")
    (figures,) = [keyword.value for keyword in recorded.keywords if keyword.arg == "figures"]
    if isinstance(figures, ast.Name):
        figures = next(
            node.value
            for node in ast.walk(ast.parse(notebook.cells[-1].source))
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == figures.id
        )
    assert [value for value in figures.values if isinstance(value, ast.Constant)] == []
