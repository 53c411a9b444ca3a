"""Check that a report's numbers are those of the code, data and parameters as they are now. DVC knows; this names."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from rice_lib.common.errors import RiceError
from rice_lib.common.paths import NOTEBOOKS, STUDIES, Paths
from rice_lib.report.results import stage_of

_KINDS = {"src": "code", "notebooks": "code", "serving": "code", "params": "parameters"}
"""What a dependency is, by the first folder of its path; any other is data."""


def outdated(paths: Paths) -> list[str]:
    """List the notebooks whose inputs changed since they ran, each with the names of what did; empty where none did.

    Raises `RiceError` where DVC failed.
    """
    command = [sys.executable, "-m", "dvc", "status", "--json", "--with-deps", f"report@{paths.profile}"]
    done = subprocess.run(command, cwd=paths.root, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no reason given"])[0]
        raise RiceError(f"dvc status failed ({said}); run it here to see more", status=1)
    changed = json.loads(done.stdout)
    notebooks = {stage_of(notebook, paths.profile): notebook for notebook in (*NOTEBOOKS, *STUDIES)}
    return [f"{name}: {_describe(changed[stage])}" for stage, name in notebooks.items() if stage in changed]


def _describe(changes: Iterable[Any]) -> str:
    """Name what DVC found: `code changed: src/rice_lib/data; parameters changed: seed`."""
    found: dict[str, list[str]] = {}
    for change in changes:
        if isinstance(change, str):  # "changed command"
            found.setdefault("command", []).append("dvc.yaml")
            continue
        for name, state in change.get("changed deps", {}).items():
            names = list(state) if isinstance(state, Mapping) else [name]
            found.setdefault(_KINDS.get(name.partition("/")[0], "data"), []).extend(names)
        found.setdefault("outputs", []).extend(change.get("changed outs", {}))
    return "; ".join(f"{kind} changed: {', '.join(names)}" for kind, names in found.items() if names)
