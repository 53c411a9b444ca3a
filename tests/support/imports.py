"""Which of the library's modules a piece of code imports, read off its syntax tree. Shared by two test modules."""

from __future__ import annotations

import ast
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"

FOR_OTHER_MODELS = {
    # open_predictor imports what opens a kind of model when it meets one; the notebooks before 06 open checkpoints and
    # ONNX files alone, and a change of Triton's client must not train the ViT again
    "rice_lib.backends.predictor": {"rice_lib.backends.plan", "rice_lib.serving"},
}


def module_file(name: str) -> Path | None:
    """The file of a module of the library; None for what is none."""
    place = SOURCE.joinpath(*name.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if name.split(".", maxsplit=1)[0] == "rice_lib" and file.is_file():
            return file
    return None


def imported(code: str, top_level_only: bool = False) -> set[str]:
    """Names of the library's modules that the code imports, those of functions included unless told otherwise."""
    tree = ast.parse(code)
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from package import module` imports the module; `from module import name` is its module's import
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return {name for name in found if module_file(name)}


def closure(code: str, spare: dict[str, set[str]] | None = None) -> set[str]:
    """The modules that the code imports, and those that these import, and so on.

    Args:
        code: Python.
        spare: module to packages or modules that its imports of do not count.
    """
    todo, found = imported(code), set()
    while todo:
        name = todo.pop()
        if name in found:
            continue
        found.add(name)
        file = module_file(name)
        assert file is not None
        spared = (spare or {}).get(name, set())
        todo |= {m for m in imported(file.read_text()) if not any(f"{m}.".startswith(f"{s}.") for s in spared)}
    return found
