"""`rice report`: render the report of a profile."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rice_lib.cli.arguments import profile_parser
from rice_lib.common.parameters import load_params
from rice_lib.common.paths import Paths
from rice_lib.report.render import render
from rice_lib.report.sources import write_sources


def main(arguments: Sequence[str] | None = None, prog: str = "rice report") -> int:
    """Run the command; returns its exit status."""
    paths = Paths.of(load_params(parser(prog).parse_args(arguments).profile).profile)
    print(paths.relative(render(write_sources(paths), paths)))
    return 0


def parser(prog: str) -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    return profile_parser(prog, "Render the report of a profile whose notebooks have run.")
