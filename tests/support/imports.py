"""Which of the library's modules a piece of code imports, read off its syntax tree. Shared by several test modules."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[2] / "src"


def module_file(name: str) -> Path | None:
    """The file of a module of the library; None for what is none."""
    place = SOURCE.joinpath(*name.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if name.split(".", maxsplit=1)[0] == "rice_lib" and file.is_file():
            return file
    return None


def names_imported(code: str, top_level_only: bool = False) -> set[str]:
    """Names that the code imports, `package.name` of `from package import name` too, but for those of type checking.

    Args:
        code: Python.
        top_level_only: leaves out the imports within functions.
    """
    found: set[str] = set()
    todo: list[ast.AST] = [ast.parse(code)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            todo += node.orelse
        elif not (top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)):
            todo += ast.iter_child_nodes(node)
    return found


def imported(code: str, top_level_only: bool = False) -> set[str]:
    """Names of the library's modules that the code imports."""
    return {name for name in names_imported(code, top_level_only) if module_file(name)}


@cache
def imports_of(module: str, top_level_only: bool = False) -> frozenset[str]:
    """Modules of the library that one of its modules imports."""
    file = module_file(module)
    assert file is not None
    return frozenset(imported(file.read_text(), top_level_only) - {module})


def closure(start: set[str], top_level_only: bool = False, spared_room: str = "") -> set[str]:
    """Modules that these import, and those that these import, and so on, themselves included; a room may be spared."""
    todo, found = set(start), set()
    while todo:
        name = todo.pop()
        if name not in found and room_of(name) != (spared_room or None):
            found.add(name)
            todo |= imports_of(name, top_level_only)
    return found


def room_of(module: str) -> str:
    """The room of a module: `models` of `rice_lib.models.vit`; empty for the package itself."""
    return module.split(".")[1] if "." in module else ""


@cache
def modules() -> tuple[str, ...]:
    """Every module of the library."""
    files = sorted((SOURCE / "rice_lib").rglob("*.py"))
    return tuple(".".join(f.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__") for f in files)
