"""`rice report`: render the report of a profile, or compare two runs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rice_lib.cli.arguments import profile_parser
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import load_params
from rice_lib.common.paths import Paths, find_root
from rice_lib.report.check import outdated
from rice_lib.report.render import render
from rice_lib.report.sources import write_sources


def main(arguments: Sequence[str] | None = None, prog: str = "rice report") -> int:
    """Run the command; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    if options.compare:
        from rice_lib.report.compare import write_comparison

        root = find_root()
        print(write_comparison(tuple(options.compare), root).relative_to(root))
        return 0
    paths = Paths.of(load_params(options.profile).profile)
    if options.check:
        return _check(paths)
    index = render(write_sources(paths), paths)
    print(paths.relative(index))
    return 0


def _check(paths: Paths) -> int:
    """Print what changed since the report's numbers were made; raises `RiceError`, status 1, where anything did."""
    changed, report = outdated(paths), paths.relative(paths.report)
    print("\n".join(changed) or f"{report}: made by the code, data and parameters as they are now")
    if changed:
        again = f"make report PROFILE={paths.profile}"
        raise RiceError(f"{report}: {len(changed)} notebooks are out of date; run: {again}", status=1)
    return 0


def parser(prog: str) -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    command = profile_parser(prog, "Render the report of a profile whose notebooks have run, or compare two runs.")
    what = "render nothing; fail, naming what changed, where code, data or parameters are not those of the numbers"
    command.add_argument("--check", action="store_true", help=what)
    what = "compare two runs, each a profile or a folder of metrics files (reports/benchmarks/.../local), on one page"
    command.add_argument("--compare", nargs=2, metavar=("A", "B"), help=what)
    return command
