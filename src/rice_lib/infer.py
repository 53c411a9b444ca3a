"""`rice infer` or `python -m rice_lib.infer`: image files in, variety names out.

    rice infer grain.jpg
    rice infer photos/ --output predictions.jsonl
    find . -name '*.jpg' -print0 | rice infer - --null

Records leave in the order of the inputs, as they come. A file that cannot be read is a record with its reason, and the
others are still predicted.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.cli.infer_options import check, parser
from rice_lib.common.errors import RiceError, run_command
from rice_lib.contract.decode import configure_pillow
from rice_lib.contract.record import Record
from rice_lib.predict.inputs import Source, expand, read_names
from rice_lib.predict.pipeline import predict_files, with_progress
from rice_lib.predict.processes import predict_files as predict_files_by_processes
from rice_lib.predict.resume import (
    Configuration,
    has_errors,
    import_parquet,
    is_complete,
    model_identity,
    open_output,
)
from rice_lib.predict.writers import Writer, format_of

if TYPE_CHECKING:
    from rice_lib.predict.served import FileClient

PROG = "python -m rice_lib.infer"


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Run the command; returns its exit status: 0 every input was predicted, 1 some inputs failed.

    Raises:
        RiceError: wrong usage, or a model or an output that cannot be opened.
    """
    arguments = parser(prog).parse_args(argv)
    check(arguments)
    configure_pillow()
    if arguments.explain:
        from rice_lib.cli.explain import run as run_explain

        return run_explain(arguments)
    if arguments.resume and is_complete(arguments.output):
        print(f"{arguments.output}: already complete; delete it to start over", file=sys.stderr)
        return 1 if has_errors(arguments.output, format_of(arguments.format, arguments.output)) else 0
    with _terminable(arguments.output):
        if arguments.grains:
            from rice_lib.cli.tray import run as run_tray

            return run_tray(arguments)
        return _run(arguments)


def _run(arguments: argparse.Namespace) -> int:
    form = format_of(arguments.format, arguments.output)
    if form == "parquet":
        import_parquet()
    spec = arguments.model or default_model()
    with _open(spec, arguments) as model:
        # a table is read by people, who want one name; a program can pick from all the scores
        top_k = arguments.top_k or (1 if form == "table" else len(model.labels))
        identity = model_identity(spec) if arguments.output else ""
        configuration = Configuration(identity, form, top_k, arguments.reject)
        writer = Writer(form, model.labels, top_k)
        with open_output(arguments.output, configuration, writer, arguments.resume) as output:
            sources = output.remaining(expand(read_names(arguments.inputs, arguments.null)))
            records = _predict(model, spec, sources, arguments)
            # a bar between lines of a table on the same terminal would spoil both
            if arguments.output or not sys.stdout.isatty():
                known = None if "-" in arguments.inputs else expand(arguments.inputs)
                records = with_progress(records, known, output.count)
            for record in records:
                output.write(record)
    return 1 if output.failed else 0


def _open(spec: str | Path, arguments: argparse.Namespace) -> Predictor | FileClient:
    """The model: one that takes pixels, or a server's ensemble, which takes files."""
    if "://" in str(spec):  # what talks to a server is imported for one alone
        from rice_lib.predict.served import open_file_client

        client = open_file_client(str(spec))
        if client is not None and arguments.engine == "ray":
            client.close()
            raise RiceError(f"--engine ray: {spec} takes files, which one client sends it; leave --engine out")
        if client is not None:
            return client
    predictor = open_predictor(spec, arguments.threads)
    if predictor.decision is None and arguments.reject:
        print(f"note: {spec} carries no rejection rule; every image is given a variety", file=sys.stderr)
    return predictor


def _predict(
    model: Predictor | FileClient, spec: str | Path, sources: Iterator[Source], arguments: argparse.Namespace
) -> Iterator[Record]:
    if not isinstance(model, Predictor):
        return model.predict_files(sources, arguments.reject)
    if arguments.engine == "ray":
        from rice_lib.predict.ray import predict_files as predict_files_by_ray

        return predict_files_by_ray(spec, sources, arguments.batch_size, arguments.reject, arguments.threads or 1)
    if model.processes > 1:
        return predict_files_by_processes(model, spec, sources, arguments.batch_size, arguments.reject)
    return predict_files(model, sources, arguments.batch_size, arguments.reject)


@contextmanager
def _terminable(output: Path | None) -> Iterator[None]:
    """Let SIGTERM end a run that writes a file as Ctrl-C does, with status 143, so that it says how to resume."""
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


if __name__ == "__main__":
    run_command(main)
