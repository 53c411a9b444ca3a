"""The error that a person is meant to read, and how a command ends.

Everything a user can cause (a missing file, a typo in a profile, a model of the wrong shape) is raised as `RiceError`
with one line that says what failed, why, and what to do. Commands print the line on stderr and leave with its exit
status, as they do for what the operating system denies (`OSError`); anything else that escapes is a bug and keeps its
traceback.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable


class RiceError(Exception):
    """A fault of the input or the machine, in one line; `status` is the exit status of the command."""

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def run_command(main: Callable[[], int], prog: str = "this command", extra: str = "train") -> None:
    """Run a command's `main`, turning `RiceError`, `OSError` and Ctrl-C into one line on stderr and an exit status.

    So is a library that `prog` needs and that is not installed: the line names the `extra` of this package that
    installs it. Where the reader of the output has gone (`| head`), the command ends without a word, as others do.
    SIGTERM ends it as Ctrl-C does, with status 143: what it began is cleared, or can be resumed.
    """
    _open_closed_streams()
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()
    except RiceError as error:
        print(f"error: {error}", file=sys.stderr)
        status = error.status
    except ModuleNotFoundError as error:
        if (error.name or "rice_lib").partition(".")[0] == "rice_lib":
            raise
        print(f"error: {prog} needs {error.name}, not installed here: pip install 'rice-lib[{extra}]'", file=sys.stderr)
        status = 2
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        try:
            sys.stdout.flush()
        except OSError:
            where = "stdout: "
            # or Python tries once more when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            status = 141  # 128 + SIGPIPE
        else:
            print(f"error: {where}{error.strerror or error}", file=sys.stderr)
            status = 2
    except ValueError:
        if sys.flags.optimize < 2:
            raise
        print(f"error: {prog}: a library needs docstrings; set PYTHONOPTIMIZE to 1, 2 removes them", file=sys.stderr)
        status = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    sys.exit(status)


def _open_closed_streams() -> None:
    """Replace a standard stream that the caller has closed (`>&-`) by one that cannot be used.

    Its number would go to the next file that is opened, and `print(file=None)` writes to stdout.
    """
    for name, flags in (("stdin", os.O_WRONLY), ("stdout", os.O_RDONLY), ("stderr", os.O_WRONLY)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, flags), "r" if name == "stdin" else "w"))
