"""What the study scripts share: whose images, and the record with its provenance."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rice_lib.common.files import write_json
from rice_lib.common.run import Run
from rice_lib.common.tracking import commit, provenance


def parser(description: str | None) -> argparse.ArgumentParser:
    """Make a script's command line, with the options that all have."""
    command = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--profile", default="scratch", help="whose images and splits (default: %(default)s)")
    command.add_argument("--data", help="folder or zip of the images, in place of the profile's")
    command.add_argument("--output", type=Path, help="JSON file to write")
    return command


def open_run(arguments: argparse.Namespace) -> Run:
    """Open the profile; notebooks 01 and 02 have run under it."""
    return Run.open(arguments.profile, data={"path": arguments.data} if arguments.data else None)


def write(arguments: argparse.Namespace, run: Run, name: str, rows: list[dict[str, Any]]) -> None:
    """Write the rows with the settings and what made them; nothing where no `--output` was given."""
    if arguments.output is None:
        return
    settings = {key: value for key, value in vars(arguments).items() if key not in ("output", "data")}
    made = {
        **provenance(run),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": commit(Path(__file__).parents[1]),
    }
    write_json(arguments.output, {"study": name, "settings": settings, "rows": rows, "provenance": made})
