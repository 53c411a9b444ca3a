"""`rice stage`: run one notebook, as `dvc.yaml` does.

    rice stage 04_vit_finetune --profile smoke --set finetune.epochs=1

Parameters are validated before a kernel starts; papermill runs the notebook from the checkout's root with this
interpreter; the executed notebook is kept even where a cell failed.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rice_lib.cli.arguments import profile_parser
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import Params, load_params, parse_overrides
from rice_lib.common.paths import NOTEBOOKS, STUDIES, Paths, find_root
from rice_lib.common.run import Run

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


def run_stage(name: str, profile: str, overrides: Mapping[str, Any] | None = None) -> Path:
    """Execute a notebook (`04_vit_finetune`) under a profile with `overrides` laid over it; returns the executed one.

    Raises `RiceError` for wrong parameters, no such notebook (status 2), or a cell that failed (status 1; the notebook
    as far as it came is where the executed one would be; the traceback of anything but a `RiceError` is on stderr).
    """
    known = (*NOTEBOOKS, *STUDIES)
    if name not in known:
        raise RiceError(f"{name}: no such notebook; known: {', '.join(known)}")
    params = load_params(profile, overrides)
    paths = Paths.of(params.profile)
    if name in STUDIES and not params.study.enabled:
        for output in (paths.notebook(name), paths.figure(name, "any")):
            output.parent.mkdir(parents=True, exist_ok=True)  # outputs of its stage, though empty
        return paths.notebook(name)
    source = paths.root / "notebooks" / f"{name}.ipynb"
    if not source.is_file():
        raise RiceError(f"{source}: missing from the checkout; get it back with: git checkout notebooks")
    from papermill import inspect_notebook

    read = set(inspect_notebook(str(source)))  # a notebook names the sections that it reads
    # the stage itself reads where the images lie, and whether studies are enabled
    if unread := set(overrides or ()) - read - {"data"} - ({"study"} if name in STUDIES else set()):
        sections = ", ".join(sorted(read - {"profile"}))
        raise RiceError(f"--set {min(unread)}: {name} does not read it; it reads {sections}")
    if name != NOTEBOOKS[0] and paths.manifest.is_file():
        from rice_lib.data.manifest import restore

        restore(Run(params, paths))  # `dvc pull` and `dvc checkout` bring a manifest without its pixels
    output = paths.notebook(name)
    output.parent.mkdir(parents=True, exist_ok=True)
    running = output.with_name(f".{output.stem}.running.ipynb")
    failed = None
    try:
        passed = {**notebook_parameters(params), "profile": profile}
        failed = _execute(source, running, {key: passed[key] for key in passed if key in read}, paths.root)
    finally:
        if running.is_file():
            os.replace(running, output)
    if failed:
        raise RiceError(
            f"{name} failed: {failed}\n"
            f"  look:   jupyter lab {paths.relative(output)}   (the notebook as far as it came)\n"
            f"  resume: make report PROFILE={paths.profile}   (or: dvc repro report@{paths.profile})\n"
            "  Finished stages are kept, and training continues from its last checkpoint.",
            status=1,
        )
    return output


def notebook_parameters(params: Params) -> dict[str, Any]:
    """Dump what `papermill -f params/<profile>.yaml` would pass: the values that profile and overrides set."""
    return params.model_dump(mode="json", exclude_unset=True)


def _execute(source: Path, output: Path, parameters: dict[str, Any], root: Path) -> str | None:
    """Run a notebook; returns where a cell failed and why, and prints the traceback of what is no `RiceError`."""
    os.environ.update(_ENVIRONMENT)
    from nbclient.exceptions import DeadKernelError
    from papermill import execute_notebook
    from papermill.exceptions import PapermillExecutionError

    try:
        execute_notebook(
            str(source),
            str(output),
            parameters=parameters,
            kernel_name="python3",
            cwd=str(root),
            progress_bar={"desc": source.stem, "file": sys.stderr, "leave": True},
            stderr_file=sys.stderr,
            # nothing but this user's kernel listens on the loopback: the warning about that is noise
            extra_arguments=["--log-level=ERROR"],
        )
    except PapermillExecutionError as error:
        if error.ename != RiceError.__name__:
            traceback = "\n".join(error.traceback)
            print(traceback if sys.stderr.isatty() else re.sub(r"\x1b\[[0-9;]*m", "", traceback), file=sys.stderr)
        return f"cell In [{error.exec_count}]: {error.evalue}"
    except DeadKernelError as error:
        print(error, file=sys.stderr)
        return "its kernel died (out of memory?)"
    return None


def main(arguments: Sequence[str] | None = None, prog: str = "rice stage") -> int:
    """Run the command; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    began = time.monotonic()
    output = run_stage(options.notebook, options.profile, parse_overrides(options.set))
    if not output.is_file():
        print(f"{options.notebook}: not run; the profile has study.enabled: false")
        return 0
    page = Path("reports", output.relative_to(find_root()).parts[1], "site", "pages", f"{options.notebook}.html")
    print(f"{options.notebook}: {time.monotonic() - began:.0f} s. Its page, once the report is rendered: {page}")
    return 0


def parser(prog: str) -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    command = profile_parser(prog, "Run one notebook under a profile.")
    command.add_argument("notebook", help=f"one of {', '.join((*NOTEBOOKS, *STUDIES))}")
    what = "override a parameter; may be repeated"
    command.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE", help=what)
    return command
