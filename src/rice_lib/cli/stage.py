"""Running one notebook: `python -m rice_lib stage 04_vit_finetune --profile smoke [--set finetune.epochs=1]`.

What `dvc.yaml` calls. Parameters are validated before a kernel starts; papermill runs the notebook from
the checkout's root with this interpreter; the executed notebook is kept whether it went well or not.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json, sha256_file
from rice_lib.common.parameters import Params, load_params, parse_overrides
from rice_lib.common.paths import NOTEBOOKS, Paths
from rice_lib.common.run import Run

PROG = "rice stage"
_ENVIRONMENT = {
    # a kernelspec `python3` in the user's home may be another interpreter; this environment's own comes first
    "JUPYTER_PREFER_ENV_PATH": "1",
    # warnings that every notebook would carry: of frozen modules (the debugger), of missing widgets (tqdm)
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "PYTHONWARNINGS": "ignore:IProgress not found",
    # MLflow logs its database's migrations, and reports its use to its makers
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "ORT_DISABLE_TELEMETRY": "1",
}
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


def run_stage(name: str, profile: str, overrides: Mapping[str, Any] | None = None) -> Path:
    """Execute a notebook under a profile.

    Args:
        name: a notebook's stem, `04_vit_finetune`.
        profile: a name under `params/`, or the path of a YAML file.
        overrides: nested values laid over the profile's.

    Returns:
        The executed notebook.

    Raises:
        RiceError: wrong parameters, no such notebook (status 2), or a cell that failed (status 1; its
            traceback is on stderr, and the notebook as far as it came is where the executed one would be).
    """
    if name not in NOTEBOOKS:
        raise RiceError(f"{name}: no such notebook; known: {', '.join(NOTEBOOKS)}")
    params = load_params(profile, overrides)
    paths = Paths.of(params.profile)
    source = paths.root / "notebooks" / f"{name}.ipynb"
    if not source.is_file():
        raise RiceError(f"{source}: missing from the checkout; get it back with: git checkout notebooks")
    if name != NOTEBOOKS[0] and paths.manifest.is_file():
        _restore_pixels(Run(params, paths))
    output = paths.notebook(name)
    output.parent.mkdir(parents=True, exist_ok=True)
    running = output.with_name(f".{name}.running.ipynb")
    try:
        _execute(source, running, {**notebook_parameters(params), "profile": profile}, paths.root)
    except _CellFailed as failure:
        print(failure.traceback if sys.stderr.isatty() else _ANSI.sub("", failure.traceback), file=sys.stderr)
        raise RiceError(_how_to_resume(failure, output, paths), status=1) from None
    finally:
        if running.is_file():
            os.replace(running, output)
    return output


def notebook_parameters(params: Params) -> dict[str, Any]:
    """What `papermill -f params/<profile>.yaml` would pass: the values that profile and overrides set."""
    return params.model_dump(mode="json", exclude_unset=True)


class _CellFailed(Exception):
    def __init__(self, where: str, traceback: str) -> None:
        super().__init__(where)
        self.where = where
        self.traceback = traceback


def _execute(source: Path, output: Path, parameters: dict[str, Any], root: Path) -> None:
    os.environ.update(_ENVIRONMENT)
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook, inspect_notebook
    from papermill.exceptions import PapermillExecutionError

    read = inspect_notebook(str(source))  # a notebook names the sections that it reads
    try:
        execute_notebook(
            str(source),
            str(output),
            parameters={name: value for name, value in parameters.items() if name in read},
            kernel_name="python3",
            cwd=str(root),
            progress_bar={"desc": source.stem, "file": sys.stderr, "leave": True},
            stderr_file=sys.stderr,
            # nothing but this user's kernel listens on the loopback: the warning about that is noise
            extra_arguments=["--log-level=ERROR"],
        )
    except PapermillExecutionError as error:
        raise _CellFailed(f"cell In [{error.exec_count}]", "\n".join(error.traceback)) from None
    except DeadKernelError as error:
        raise _CellFailed("its kernel died (out of memory?)", str(error)) from None


def _how_to_resume(failure: _CellFailed, output: Path, paths: Paths) -> str:
    return (
        f"{output.stem} failed: {failure.where}\n"
        f"  look:   jupyter lab {paths.relative(output)}   (the notebook as far as it came)\n"
        f"  resume: make report PROFILE={paths.profile}   (or: dvc repro report@{paths.profile})\n"
        "  Finished stages are kept, and training continues from its last checkpoint."
    )


def _restore_pixels(run: Run) -> None:
    """Bring back the pixel cache where `dvc pull` or `dvc checkout` brought a manifest without it."""
    about = run.paths.cache / "cache.json"
    if about.is_file() and read_json(about).get("manifest") == sha256_file(run.paths.manifest):
        return
    from rice_lib.data.manifest import restore

    restore(run)


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The command; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    run_stage(options.notebook, options.profile, parse_overrides(options.set))
    return 0


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(prog=prog, description="Run one notebook under a profile.")
    command.add_argument("notebook", help=f"one of {', '.join(NOTEBOOKS)}")
    command.add_argument("--profile", default="smoke", help="a name under params/, or a YAML file (default: smoke)")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="override a parameter; may be repeated",
    )
    return command
