"""`python -m rice_lib.infer`: image files in, variety names out.

    python -m rice_lib.infer grain.jpg
    python -m rice_lib.infer photos/ --format jsonl --output told.jsonl
    find . -name '*.jpg' -print0 | python -m rice_lib.infer - --null

Results leave in the order of the inputs, as they come. Files are decoded by a few threads while the model
works on the batch before, and never more than two batches are held, so memory does not grow with the number
of files. A file that cannot be read is a result like any other, with its reason, and the others are still
told.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rice_lib.errors import RiceError, run_command
from rice_lib.inputs import DecodedInput, decode_all, expand, read_list
from rice_lib.results import FORMATS, Result, format_of, open_sink

if TYPE_CHECKING:
    from tqdm import tqdm

    from rice_lib.deploy.predictors import Predictor

SHIPPED_MODEL = "rice-vit-tiny.onnx"
BATCH_SIZE = 32
PROGRESS_AFTER_S = 2.0
"""A run shorter than this shows no progress bar."""


def predict(
    predictor: Predictor, inputs: Iterable[DecodedInput | None], batch_size: int = BATCH_SIZE
) -> Iterator[Result]:
    """Tell images: decoded inputs in, results out, in the same order.

    A batch is closed when it is full, or when the next input is not there yet, so that a slow list on stdin
    is answered
    line by line.

    Args:
        predictor: the model.
        inputs: paths with their pixels, or with the reason why there are none; None says that the next one is
            late.
        batch_size: images of one call to the model.
    """
    batch: list[DecodedInput] = []
    good = 0
    for item in inputs:
        if item is not None:
            batch.append(item)
            good += item.pixels is not None
        if item is None or good == batch_size:
            yield from _tell(predictor, batch)
            batch, good = [], 0
    yield from _tell(predictor, batch)


def _tell(predictor: Predictor, batch: list[DecodedInput]) -> Iterator[Result]:
    from rice_lib.deploy.predictors import probabilities

    pixels = [item.pixels for item in batch if item.pixels is not None]
    scores = iter(probabilities(predictor.logits(np.stack(pixels))) if pixels else ())
    for item in batch:
        if item.pixels is None:
            yield Result(item.path, error=item.error)
        else:
            yield Result(item.path, scores=dict(zip(predictor.labels, next(scores).tolist(), strict=True)))


def default_model() -> Path:
    """The model that ships: in the wheel beside this file, in a checkout under `models/`.

    Raises:
        RiceError: it is in neither place.
    """
    here = Path(__file__).resolve()
    places = (here.parent / "_models" / SHIPPED_MODEL, here.parents[2] / "models" / SHIPPED_MODEL)
    for place in places:
        if place.is_file():
            return place
    raise RiceError(f"the model that ships is not here ({' or '.join(map(str, places))}); name one with --model")


def main(argv: list[str] | None = None) -> int:
    """The command; returns its exit status: 0 all told, 1 some inputs failed, 2 usage (raised as
    `RiceError`)."""
    arguments = _parse(argv)
    names = _names(arguments)
    form = format_of(arguments.format, arguments.output)
    from rice_lib.deploy.predictors import open_predictor

    try:
        with open_predictor(arguments.model or default_model(), arguments.threads) as predictor:
            # a table is read by people, who want the answer; a program can pick from all the scores
            top_k = arguments.top_k or (1 if form == "table" else len(predictor.labels))
            with open_sink(arguments.output, form, predictor.labels, top_k) as sink:
                progress = _Progress(arguments.output is not None or not sys.stdout.isatty())
                failed = 0
                for result in predict(predictor, decode_all(expand(names), arguments.batch_size), arguments.batch_size):
                    sink.write(result)
                    failed += result.error is not None
                    progress.step(failed)
                progress.close()
    except BrokenPipeError:
        # whoever read our output has gone (`| head`): leave as quietly as other commands do
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return 1 if failed else 0


def _names(arguments: argparse.Namespace) -> Iterator[bytes | str]:
    for name in arguments.inputs:
        if name == "-":
            yield from read_list(sys.stdin.fileno(), b"\0" if arguments.null else b"\n")
        else:
            yield name


class _Progress:
    """Count, rate and failures on stderr, for runs that take a while; a line now and then where it is no
    terminal."""

    def __init__(self, stdout_is_free: bool) -> None:
        self._terminal = sys.stderr.isatty()
        # a bar between table lines on the same terminal would spoil both
        self._show = stdout_is_free
        self._begun = time.monotonic()
        self._count = 0
        self._bar: tqdm | None = None

    def step(self, failed: int) -> None:
        self._count += 1
        if self._bar is not None:
            self._bar.update()
            if failed:
                self._bar.set_postfix_str(f"{failed} failed", refresh=False)
        elif self._show and time.monotonic() - self._begun > PROGRESS_AFTER_S * (1 if self._terminal else 5):
            from tqdm import tqdm

            self._bar = tqdm(
                desc="told",
                unit=" images",
                file=sys.stderr,
                mininterval=0.2 if self._terminal else 30.0,
                dynamic_ncols=True,
            )
            # the bar counts from the run's beginning, not from its own
            self._bar.n, self._bar.start_t = self._count, self._bar.start_t - (time.monotonic() - self._begun)
            self._bar.refresh()

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _parse(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rice_lib.infer",
        description="Tell rice varieties from photographs of single grains on a dark ground.",
        epilog="Exit status: 0 all told, 1 some inputs failed (the others are still told), 2 wrong usage.",
    )
    positive: Callable[[str], int] = _positive
    parser.add_argument(
        "inputs",
        nargs="+",
        metavar="IMAGE|FOLDER|-",
        help="files, folders (searched for images), - a list on stdin",
    )
    parser.add_argument(
        "--model",
        metavar="M",
        help="checkpoint directory, .onnx, .plan, triton://host:port/name (default: the one shipped)",
    )
    parser.add_argument("--format", choices=FORMATS, help="default: by --output's suffix, else table")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write there instead of stdout")
    parser.add_argument(
        "--top-k", type=positive, metavar="K", help="tell the K likeliest varieties (default: all; table: 1)"
    )
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=BATCH_SIZE,
        metavar="N",
        help="images per model call (default: %(default)s)",
    )
    parser.add_argument("--threads", type=positive, metavar="N", help="CPU threads of the model (default: all cores)")
    parser.add_argument("--null", "-0", action="store_true", help="the list on stdin is separated by NUL, not newline")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {value}")
    return value


if __name__ == "__main__":
    run_command(main)
