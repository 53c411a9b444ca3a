"""`rice infer` or `python -m rice_lib.infer`: image files in, variety names out.

    rice infer grain.jpg
    rice infer photos/ --output told.jsonl
    find . -name '*.jpg' -print0 | rice infer - --null

Results leave in the order of the inputs, as they come. Files are decoded by a few threads while the model works on
the batch before, and never more than two batches are held, so memory does not grow with the number of files. A file
that cannot be read is a result like any other, with its reason, and the others are still told.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rice_lib.cli.arguments import positive
from rice_lib.contract.decision import Decision
from rice_lib.common.errors import RiceError, run_command
from rice_lib.predict.inputs import DecodedInput, Memory, Source, count, decode_all, expand, peek_list, read_list
from rice_lib.predict.resume import Terms, import_parquet, is_finished, model_identity, open_sink
from rice_lib.predict.progress import Progress
from rice_lib.contract.record import FORMATS, Result, format_of

if TYPE_CHECKING:
    from rice_lib.backends.predictor import Predictor
    from rice_lib.predict.served import TritonTeller

PROG = "python -m rice_lib.infer"
SHIPPED_MODEL = "rice-vit-tiny.onnx"
BATCH_SIZE = 32
ENGINES = ("local", "ray")
WAITING_BATCHES = 8
"""A batch is told before it is full when so many times its size of other inputs (failed, told before) wait for it."""


def predict(
    predictor: Predictor,
    inputs: Iterable[DecodedInput | None],
    batch_size: int = BATCH_SIZE,
    reject: bool = True,
    memory: Memory | None = None,
) -> Iterator[Result]:
    """Tell images: decoded inputs in, results out, in the same order.

    A batch is closed when it is full, or when the next input is not there yet, so that a slow list on stdin is
    answered line by line.

    Args:
        predictor: the model; its `decision` gives the probabilities and the refusals.
        inputs: paths with their pixels, or with the reason why there are none; None says that the next one is late.
        batch_size: images of one call to the model.
        reject: whether what the decision refuses is told as unknown.
        memory: the one that the inputs were decoded with: files of the same bytes are told once.
    """
    batch: list[DecodedInput] = []
    fresh: dict[bytes | int, DecodedInput] = {}
    for item in inputs:
        if item is not None:
            if memory is not None and item.told is None:
                item = replace(item, told=memory.recall(item.digest))  # noqa: PLW2901
            if item.told is None and item.pixels is not None:
                fresh.setdefault(_content(item, len(batch)), item)
            batch.append(item)
        if item is None or not fresh or len(fresh) == batch_size or len(batch) == WAITING_BATCHES * batch_size:
            yield from _tell(predictor, batch, fresh, reject, memory)
            batch, fresh = [], {}
    yield from _tell(predictor, batch, fresh, reject, memory)


def _content(item: DecodedInput, place: int) -> bytes | int:
    """Equal for inputs of the same bytes, where these were looked at; else the input's place in its batch."""
    return place if item.digest is None else item.digest


def _tell(
    predictor: Predictor,
    batch: list[DecodedInput],
    fresh: dict[bytes | int, DecodedInput],
    reject: bool,
    memory: Memory | None,
) -> Iterator[Result]:
    told = dict(zip(fresh, _ask(predictor, list(fresh.values()), reject), strict=True))
    for place, item in enumerate(batch):
        if item.told is not None:
            yield replace(item.told, path=item.path)
            continue
        if item.pixels is None:
            result = Result(item.path, error=item.error, notes=item.notes)
        else:
            result = replace(told[_content(item, place)], path=item.path)
        if memory is not None:
            memory.keep(item.digest, result)
        yield result


def _ask(predictor: Predictor, items: list[DecodedInput], reject: bool) -> list[Result]:
    if not items:
        return []
    logits = predictor.logits(np.stack([_pixels(item) for item in items]))
    decision = predictor.decision  # only now: a server may have gone over to another version in between
    scores = (decision or Decision()).probabilities(logits)
    if decision is None or not reject:
        reasons: Iterable[str | None] = [None] * len(items)
    else:
        reasons = decision.reasons(logits, np.stack([_measures(decision, item) for item in items]))
    return [
        Result(item.path, dict(zip(predictor.labels, row, strict=True)), reason, item.notes)
        for item, row, reason in zip(items, scores.tolist(), reasons, strict=True)
    ]


def _pixels(item: DecodedInput) -> np.ndarray:
    assert item.pixels is not None
    return item.pixels


def _measures(decision: Decision, item: DecodedInput) -> np.ndarray:
    return decision.measure(_pixels(item)) if item.measures is None else item.measures


def tell_all(
    predictor: Predictor, sources: Iterable[Source], batch_size: int, reject: bool, remember: bool
) -> Iterator[Result]:
    """Read, decode and tell files in this process; `remember`: those of the same bytes once."""
    memory = Memory() if remember else None
    decision = predictor.decision if reject else None
    inputs = decode_all(sources, batch_size, None if decision is None else decision.measure, memory)
    return predict(predictor, inputs, batch_size, reject, memory)


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


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """The command; returns its exit status: 0 all told, 1 some inputs failed, 2 usage (raised as `RiceError`)."""
    arguments = parser(prog).parse_args(argv)
    _check(arguments)
    if arguments.grains:
        from rice_lib.cli.tray import run as run_tray

        return run_tray(arguments)
    if arguments.explain:
        from rice_lib.cli.explain import run as run_explain

        return run_explain(arguments)
    if arguments.resume and is_finished(arguments.output):
        print(f"{arguments.output}: already whole, nothing to go on with; delete it to tell anew", file=sys.stderr)
        return 0
    return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    form = format_of(arguments.format, arguments.output)
    if form == "parquet":
        import_parquet()
    model = arguments.model or default_model()
    names, counts = _names(arguments), _counts(arguments)
    with _open(model, arguments) as teller:
        # a table is read by people, who want the answer; a program can pick from all the scores
        top_k = arguments.top_k or (1 if form == "table" else len(teller.labels))
        identity = model_identity(model) if arguments.output else ""
        terms = Terms(identity, form, top_k, arguments.reject)
        with (
            _terminable(arguments.output),
            open_sink(arguments.output, terms, teller.labels, arguments.resume) as sink,
        ):
            results = _results(teller, model, sink.remaining(expand(names)), arguments)
            # a bar between lines of a table on the same terminal would spoil both
            progress = Progress(bool(arguments.output) or not sys.stdout.isatty(), counts, sink.told)
            try:
                for result in results:
                    sink.write(result)
                    progress.step(sink.failed)
            finally:
                progress.close()
    return 1 if sink.failed else 0


def _open(model: str | Path, arguments: argparse.Namespace) -> Predictor | TritonTeller:
    """The model: one that takes pixels, or a server's ensemble, which takes files."""
    from rice_lib.backends.predictor import open_predictor, open_teller

    teller = open_teller(model)
    if teller is None:
        predictor = open_predictor(model, arguments.threads)
        if predictor.decision is None and arguments.reject:
            print(f"note: {model} carries no rule for refusing images; every one is told a variety", file=sys.stderr)
        return predictor
    if arguments.engine == "ray":
        teller.close()
        raise RiceError(f"--engine ray: {model} takes files, which one client sends it; leave --engine out")
    return teller


def _results(
    teller: Predictor | TritonTeller, model: str | Path, sources: Iterator[Source], arguments: argparse.Namespace
) -> Iterator[Result]:
    if hasattr(teller, "tell"):  # of these, only what sends files has it
        return teller.tell(sources, arguments.reject)
    if arguments.engine == "ray":
        from rice_lib.predict.ray import tell_all as tell_all_by_ray

        return tell_all_by_ray(model, sources, arguments.batch_size, arguments.reject, arguments.threads or 1)
    return tell_all(teller, sources, arguments.batch_size, arguments.reject, _many(arguments.inputs))


def _many(names: list[str]) -> bool:
    return len(names) > 1 or names == ["-"] or os.path.isdir(names[0])


def _names(arguments: argparse.Namespace) -> Iterator[bytes | str]:
    for name in arguments.inputs:
        if name == "-":
            yield from read_list(sys.stdin.fileno(), _separator(arguments))
        else:
            yield name


def _counts(arguments: argparse.Namespace) -> Iterator[int] | None:
    """Numbers of inputs that add up to all; None where a list comes through a pipe, whose end nobody knows."""
    begun = 0
    if "-" in arguments.inputs:
        try:
            begun = os.lseek(sys.stdin.fileno(), 0, os.SEEK_CUR)
        except OSError:
            return None

    def again() -> Iterator[bytes | str]:
        for name in arguments.inputs:
            if name == "-":
                yield from peek_list(sys.stdin.fileno(), begun, _separator(arguments))
            else:
                yield name

    return count(again())


def _separator(arguments: argparse.Namespace) -> bytes:
    return b"\0" if arguments.null else b"\n"


@contextmanager
def _terminable(output: Path | None) -> Iterator[None]:
    """Let SIGTERM end a run that writes a file as Ctrl-C does, with status 143, so that it says how to go on."""
    import threading

    if output is None or threading.current_thread() is not threading.main_thread():
        yield
        return

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _check(arguments: argparse.Namespace) -> None:
    """Refuse options that mean nothing together; raises `RiceError`."""
    given = {
        "--grains": arguments.grains,
        "--explain": arguments.explain is not None,
        "--resume": arguments.resume,
        "--engine ray": arguments.engine == "ray",
        "--mm-per-pixel": arguments.mm_per_pixel is not None,
        "--reference-mm": arguments.reference_mm is not None,
    }
    together = [
        ("--explain", "--grains"),
        ("--resume", "--grains"),
        ("--resume", "--explain"),
        ("--engine ray", "--grains"),
        ("--engine ray", "--explain"),
        ("--mm-per-pixel", "--reference-mm"),
    ]
    for one, other in together:
        if given[one] and given[other]:
            raise RiceError(f"{one} does not go with {other}; leave one of them out")
    for scale in ("--mm-per-pixel", "--reference-mm"):
        if given[scale] and not arguments.grains:
            raise RiceError(f"{scale} tells the scale of a tray: it needs --grains")
    if arguments.resume and arguments.output is None:
        raise RiceError("--resume goes on with an interrupted --output FILE: name the file")
    if format_of(arguments.format, arguments.output) == "parquet" and arguments.output is None:
        raise RiceError("parquet is written to a file: name it with --output")


def parser(prog: str = PROG) -> argparse.ArgumentParser:
    """The command's arguments; the help fits one screen of 80 x 30."""
    command = argparse.ArgumentParser(
        prog=prog,
        usage=f"{prog} [options] IMAGE|FOLDER|- ...",
        description="Tell rice varieties from photographs of single grains on a dark ground.",
        epilog=_EPILOG.format(prog=prog),
        formatter_class=_help_format,
        add_help=False,
    )
    add = command.add_argument_group("input and output").add_argument
    add("inputs", nargs="+", metavar="IMAGE|FOLDER|-", help="files, folders searched for images, - a list on stdin")
    add("--null", "-0", action="store_true", help="the list on stdin is separated by NUL, not newline")
    add("--output", type=Path, metavar="FILE", help="write there instead of stdout")
    add("--resume", action="store_true", help="go on with an interrupted --output")
    add("--format", choices=FORMATS, metavar="F", help=f"{', '.join(FORMATS)} (default: as FILE ends)")
    add("--top-k", type=positive, metavar="K", help="tell the K likeliest (default: all; table: 1)")
    add = command.add_argument_group("what to tell, and by what").add_argument
    add("--no-reject", dest="reject", action="store_false", help="name a variety whatever the image shows")
    add("--model", metavar="M", help="checkpoint, .onnx, .plan, triton://host:port/name")
    add("--batch-size", type=positive, default=BATCH_SIZE, metavar="N", help="images a model call (%(default)s)")
    add("--threads", type=positive, metavar="N", help="CPU threads of a model (default: all cores; ray: 1)")
    add(
        "--engine",
        choices=ENGINES,
        default="local",
        metavar="E",
        help="local, or ray: a cluster's machines (RAY_ADDRESS)",
    )
    add("--grains", action="store_true", help="inputs are trays: find, tell and count their grains")
    add("--mm-per-pixel", type=_length, metavar="X", help="a tray's scale,")
    add("--reference-mm", type=_length, metavar="D", help="or the diameter of a round object lying in it")
    add("--explain", type=Path, metavar="DIR", help="save there what in each image decides")
    add("-h", "--help", action="help", help="this page")
    return command


_EPILOG = """\
examples:
  {prog} photos/ --output told.csv --resume
  {prog} photos/ --format jsonl | jq -r .label
  find . -name '*.jpg' -print0 | {prog} - -0 --top-k 2
Status: 0 all told, 1 some inputs failed (the others are told), 2 wrong usage."""


def _help_format(prog: str) -> argparse.HelpFormatter:
    return argparse.RawDescriptionHelpFormatter(prog, max_help_position=20, width=80)


def _length(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be more than 0, not {text}")
    return value


if __name__ == "__main__":
    run_command(main)
