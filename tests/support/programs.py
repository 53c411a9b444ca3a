"""Programs that stand in for others in tests."""

import sys
from pathlib import Path

_PYTHON = Path(sys.executable).resolve()
"""The interpreter itself, not a virtual environment's link to it: a `#!` line cannot name a path that holds a space."""


def write_program(path: Path, code: str) -> None:
    """Write an executable file that this interpreter runs, with the standard library alone."""
    path.write_text(f"#!{_PYTHON}\n{code}")
    path.chmod(0o755)
