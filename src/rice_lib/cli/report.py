"""`python -m rice_lib report --profile smoke`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rice_lib.common.parameters import load_params
from rice_lib.common.paths import Paths
from rice_lib.report.render import render
from rice_lib.report.sources import write_sources

PROG = "rice report"


def main(arguments: Sequence[str] | None = None, prog: str = PROG) -> int:
    """The command; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    paths = Paths.of(load_params(options.profile).profile)
    index = render(write_sources(paths), paths)
    print(f"{paths.relative(index)}")
    return 0


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command's arguments."""
    command = argparse.ArgumentParser(prog=prog, description="Render the report of a profile whose notebooks have run.")
    command.add_argument("--profile", default="smoke", help="a name under params/, or a YAML file (default: smoke)")
    return command
