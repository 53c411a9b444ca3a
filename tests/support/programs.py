"""Programs that stand in for others in tests."""

import sys
from pathlib import Path

_HEAD = f"""#!/bin/sh
'''exec' "{sys.executable}" "$0" "$@"
'''
"""
"""To the shell a command, to Python a string: a `#!` line cannot name an interpreter whose path holds a space."""


def write_program(path: Path, code: str) -> None:
    """Write an executable file that this interpreter runs."""
    path.write_text(_HEAD + code)
    path.chmod(0o755)
