"""`rice VERB ...`, the same as `python -m rice_lib VERB ...`: the commands under one name.

A verb's module, which has `main(argv, prog)` and `parser(prog)`, is imported when the verb is known, and nothing before
it: `rice infer` starts as fast as `python -m rice_lib.infer`.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from types import ModuleType
from typing import TYPE_CHECKING, Any

from rice_lib.common.errors import run_command

if TYPE_CHECKING:
    import argparse

VERBS = {
    "infer": "predict the variety of rice in photographs",
    "grains": "cut photographs of many grains into single grains",
    "demo": "open a page in the browser that takes photographs",
    "train": "train the ViT without the notebook, by one process or many",
    "evaluate": "measure a model on the images of a split",
    "calibrate": "measure a model's confidence and its rejection rule",
    "export": "make a model ready to be served: ONNX, TensorRT",
    "serve": "start and stop a Triton server with a model",
    "set-params": "write parameters into a profile's file",
    "stage": "run one notebook under a profile",
    "report": "render the report of a profile",
}
SHELLS = ("bash", "zsh", "fish")


def main() -> None:
    """Run the console command; ends the process."""
    verb = next(iter(sys.argv[1:]), "")
    extra = {"grains": "grains", "demo": "demo", "serve": "serve", "report": "serve"}.get(verb, "train")
    run_command(lambda: _run(sys.argv[1:]), f"rice {verb}", extra)


def _run(argv: list[str]) -> int:
    if argv and argv[0] in VERBS:
        return int(_module(argv[0]).main(argv[1:], f"rice {argv[0]}"))
    options = _parser()[0].parse_args(argv or ["--help"])
    print(_completion(options.shell))
    return 0


def _module(verb: str) -> ModuleType:
    from importlib import import_module

    return import_module("rice_lib.infer" if verb == "infer" else f"rice_lib.cli.{verb.replace('-', '_')}")


def _parser() -> tuple[argparse.ArgumentParser, Any]:
    """Make a parser that knows the verbs by name, and its action that holds theirs."""
    import argparse
    from importlib.metadata import version

    what = "Classify rice varieties in photographs of single grains."
    command = argparse.ArgumentParser(prog="rice", description=what, epilog="rice VERB --help says what a verb takes.")
    command.add_argument("--version", action="version", version=f"rice {version('rice-lib')}")
    verbs = command.add_subparsers(metavar="VERB", required=True)
    for verb, what in VERBS.items():
        verbs.add_parser(verb, help=what)
    verbs.add_parser("completion", help="print tab completion for a shell").add_argument("shell", choices=SHELLS)
    return command, verbs


def _completion(shell: str) -> str:
    """Join the parsers of all verbs, and make of them a shell's script."""
    import shtab

    command, verbs = _parser()
    for verb in VERBS:
        with suppress(ModuleNotFoundError):  # its libraries are not installed: the verb says so when it is run
            verbs.choices[verb] = _module(verb).parser(f"rice {verb}")
    _complete_files(command, shtab.FILE)
    return str(shtab.complete(command, shell))


def _complete_files(parser: Any, how: Any) -> None:
    """Have every argument that is no choice completed as a file's name."""
    for action in parser._actions:
        if isinstance(action.choices, dict):
            for below in action.choices.values():
                _complete_files(below, how)
        elif action.choices is None and action.nargs != 0:
            action.complete = how
