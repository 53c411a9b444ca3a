"""`rice VERB ...`, the same as `python -m rice_lib VERB ...`: the commands under one name.

A verb's module, which has `main(argv, prog)` and `parser(prog)`, is imported when the verb is known, and nothing before
it: `rice infer` starts as fast as `python -m rice_lib.infer`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING

from rice_lib.common.errors import RiceError, run_command

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
COMPLETION = "print completion for a shell: " + ", ".join(SHELLS)

_PATHS = ("inputs", "model", "checkpoint", "onnx")
"""Arguments that name a file or a folder, besides those whose type says so."""


def main() -> None:
    """Run the console command; ends the process."""
    verb = next(iter(sys.argv[1:]), "")
    run_command(lambda: _run(sys.argv[1:]), f"rice {verb}", "serve" if verb in ("serve", "report") else "train")


def _run(argv: list[str]) -> int:
    verb, *rest = argv or ["--help"]
    if verb in VERBS:
        return int(_module(verb).main(rest, f"rice {verb}"))
    if verb in ("--help", "-h"):
        print(_help())
    elif verb == "--version":
        from importlib.metadata import version

        print(f"rice {version('rice-lib')}")
    elif verb == "completion":
        print(_completion(rest))
    else:
        from difflib import get_close_matches

        near = get_close_matches(verb, [*VERBS, "completion", "--help", "--version"], n=1)
        hint = f"did you mean rice {near[0]}?" if near else "rice --help lists them"
        raise RiceError(f"rice {verb}: no such verb; {hint}")
    return 0


def _module(verb: str) -> ModuleType:
    from importlib import import_module

    return import_module("rice_lib.infer" if verb == "infer" else f"rice_lib.cli.{verb.replace('-', '_')}")


def _help() -> str:
    rows = {**VERBS, "completion SHELL": COMPLETION}
    lines = "\n".join(f"  {name:<18}{what}" for name, what in rows.items())
    return f"""usage: rice VERB ...

Rice varieties classified from photographs of single grains.

{lines}

  rice VERB --help  what a verb takes
  rice --version

examples:
  rice infer photos/ --output out.csv
  rice evaluate --model models/rice-vit-tiny.onnx --profile local"""


def _completion(argv: list[str]) -> str:
    if len(argv) != 1 or argv[0] not in SHELLS:
        raise RiceError(f'name one shell: {", ".join(SHELLS)}; for bash: eval "$(rice completion bash)"')
    import shtab

    return str(shtab.complete(_parser_of_all(), argv[0]))


def _parser_of_all() -> argparse.ArgumentParser:
    """Join the parsers of all verbs into one, as shtab reads it, with paths marked as such."""
    import argparse

    command = argparse.ArgumentParser(prog="rice", description="Rice varieties classified from photographs.")
    command.add_argument("--version", action="store_true", help="the version")
    verbs = command.add_subparsers(metavar="VERB")
    for verb, what in VERBS.items():
        verbs.add_parser(verb, help=what)
        try:
            verbs.choices[verb] = own = _module(verb).parser(f"rice {verb}")
        except ModuleNotFoundError:
            continue  # its libraries are not installed: the verb is completed, and says so when it is run
        _mark_paths(own)
    verbs.add_parser("completion", help=COMPLETION).add_argument("shell", choices=SHELLS)
    return command


def _mark_paths(parser: argparse.ArgumentParser) -> None:
    import argparse
    from pathlib import Path

    import shtab

    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in action.choices.values():
                _mark_paths(below)
        elif action.dest == "explain":
            action.complete = shtab.DIRECTORY  # type: ignore[attr-defined]
        elif action.type is Path or action.dest in _PATHS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
