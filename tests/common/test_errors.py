"""How a command ends."""

from __future__ import annotations

import subprocess
import sys

import pytest

from rice_lib.common.errors import RiceError, run_command


def ending(main) -> int:
    with pytest.raises(SystemExit) as end:
        run_command(main)
    return end.value.code


def fails(error: BaseException):
    def main() -> int:
        raise error

    return main


def test_a_commands_status_is_its_own(capsys):
    assert ending(lambda: 1) == 1
    assert ending(fails(RiceError("x.onnx: no such model", 3))) == 3
    assert capsys.readouterr().err == "error: x.onnx: no such model\n"


def test_ctrl_c_says_no_more_than_is_known(capsys):
    """It said "what was written so far is complete" for every command, whatever that had written."""
    assert ending(fails(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_fault_of_ours_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run_command(fails(ZeroDivisionError()))


def test_a_library_that_needs_docstrings_is_named():
    """Python removes them at PYTHONOPTIMIZE=2, and transformers raises ValueError while it is imported."""
    fault = "raise ValueError('no Args section')"
    code = f"from rice_lib.common.errors import run_command\ndef main(): {fault}\nrun_command(main, 'rice export')"
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: rice export: a library needs docstrings")
    assert done.stderr.count("\n") == 1
