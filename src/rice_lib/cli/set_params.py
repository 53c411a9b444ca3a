"""`rice set-params`: write parameters into a profile's file.

    rice set-params --profile smoke finetune.epochs=1 data.path=/rice.zip

`make report SET="..."` calls it. The file is changed, its comments kept, rather than overridden for one run: so DVC
sees what changed, and git shows it. Values that are not valid leave the file as it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, MutableMapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.representer import RoundTripRepresenter

from rice_lib.cli.arguments import profile_parser
from rice_lib.common.errors import RiceError
from rice_lib.common.files import write_text
from rice_lib.common.parameters import load_params, parse_overrides, profile_file


def set_params(profile: str, assignments: Sequence[str]) -> None:
    """Write `section.key=value` assignments into a profile's file, and its own name where it holds another's.

    Without assignments it checks the file. Raises `RiceError`, and leaves the file as it was, for a malformed
    assignment or a profile that would not be valid.
    """
    values = parse_overrides(assignments)
    wanted = load_params(profile, values)
    file = profile_file(profile)
    yaml = YAML()
    yaml.representer.add_representer(float, _represent_float)
    yaml.preserve_quotes = True
    yaml.width = 120
    content = yaml.load(file.read_text(encoding="utf-8"))
    if content.get("profile", wanted.profile) != wanted.profile:
        values["profile"] = wanted.profile
    if not values:
        return
    _lay_over(content, values)
    with TemporaryDirectory() as folder:
        rewritten = Path(folder) / file.name
        with rewritten.open("w", encoding="utf-8", newline="\n") as stream:
            yaml.dump(content, stream)
        if load_params(str(rewritten)) != wanted:
            raise RiceError(f"{file}: cannot be rewritten without changing its meaning; edit it by hand")
        write_text(file, rewritten.read_text(encoding="utf-8"))


def _represent_float(representer: RoundTripRepresenter, value: float) -> Any:
    """Write 0.00001 as 1.0e-05: without the point, PyYAML (so papermill too) reads a string."""
    text = repr(value)
    return representer.represent_scalar("tag:yaml.org,2002:float", text if "." in text else text.replace("e", ".0e"))


def _lay_over(content: MutableMapping[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(content.get(key), MutableMapping):
            _lay_over(content[key], value)
        else:
            content[key] = value


def main(arguments: Sequence[str] | None = None, prog: str = "rice set-params") -> int:
    """Run the command; returns its exit status."""
    options = parser(prog).parse_args(arguments)
    set_params(options.profile, options.assignments)
    return 0


def parser(prog: str) -> argparse.ArgumentParser:
    """Describe the command's arguments."""
    command = profile_parser(prog, "Write parameters into params/<profile>.yaml, checked first.")
    command.add_argument("assignments", nargs="*", metavar="SECTION.KEY=VALUE")
    return command
