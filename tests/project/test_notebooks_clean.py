"""Notebooks are committed without outputs, begin alike, and record their metrics at the end."""

from __future__ import annotations

import ast
from pathlib import Path

import nbformat
import pytest

from rice_lib.common.parameters import Params
from rice_lib.common.paths import NOTEBOOKS

FOLDER = Path(__file__).parents[2] / "notebooks"
SECTIONS = [name for name in Params.model_fields if name != "profile"]
PARAMETERS = "\n".join(
    [
        "# None: as in params/<profile>.yaml. papermill -f params/<profile>.yaml fills them in.",
        'profile = "smoke"',
        *(f"{name} = None" for name in SECTIONS),
    ]
)


def test_the_seven_and_no_other():
    assert sorted(file.stem for file in FOLDER.glob("*.ipynb")) == sorted(NOTEBOOKS)


@pytest.fixture(params=NOTEBOOKS)
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
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)


def test_begins_with_its_contract(notebook, request):
    first = notebook.cells[0]
    number = request.node.callspec.params["notebook"][:2]
    assert first.cell_type == "markdown"
    assert first.source.startswith(f"# {number} ")
    assert "**Reads**" in first.source
    assert "**Writes**" in first.source


def test_second_cell_is_the_parameters(notebook):
    cell = notebook.cells[1]
    assert cell.metadata.tags == ["parameters"]
    assert cell.source.strip() == PARAMETERS
    assert sum("parameters" in c.metadata.get("tags", []) for c in notebook.cells) == 1


def test_third_cell_opens_the_run_with_every_parameter(notebook):
    calls = [node for node in ast.walk(ast.parse(notebook.cells[2].source)) if isinstance(node, ast.Call)]
    (opened,) = [call for call in calls if ast.unparse(call.func) == "Run.open"]
    assert {keyword.arg: ast.unparse(keyword.value) for keyword in opened.keywords} == {n: n for n in SECTIONS}


def test_no_cell_assigns_to_a_parameter(notebook):
    for cell in code_of(notebook)[1:]:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                assert node.id not in {"profile", *SECTIONS}, f"{cell.id}: {node.id}"


def test_last_cell_records(notebook, request):
    name = request.node.callspec.params["notebook"]
    calls = [n for n in ast.walk(ast.parse(notebook.cells[-1].source)) if isinstance(n, ast.Call)]
    (recorded,) = [call for call in calls if ast.unparse(call.func) == "record"]
    assert ast.unparse(recorded.args[0]) == "run"
    assert ast.literal_eval(recorded.args[1]) == name


def test_same_code_at_every_size(notebook):
    """A profile differs in its parameters alone: no code asks for its name."""
    for cell in code_of(notebook)[2:]:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.If | ast.IfExp):
                assert "profile" not in ast.unparse(node.test), cell.id
