"""`rice infer` or `python -m rice_lib.infer`: image files in, variety names out.

    rice infer grain.jpg
    rice infer photos/ --output predictions.jsonl
    find . -name '*.jpg' -print0 | rice infer - --null

Records leave in the order of the inputs, as they come. A file that cannot be read is a record with its reason, and the
others are still predicted.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.cli.infer_options import check, parser
from rice_lib.common.errors import run_command
from rice_lib.contract.decode import configure_pillow
from rice_lib.predict.inputs import Source, expand, read_names
from rice_lib.predict.pipeline import predict_files, with_progress
from rice_lib.predict.processes import predict_files as predict_files_by_processes
from rice_lib.predict.resume import Configuration, has_errors, import_parquet, is_complete, model_identity, open_output
from rice_lib.predict.writers import Writer, format_of

if TYPE_CHECKING:
    from rice_lib.predict.resume import Formatter
    from rice_lib.predict.served import FileClient

PROG = "python -m rice_lib.infer"


def main(argv: list[str] | None = None, prog: str = PROG) -> int:
    """Run the command; returns its exit status: 0 every input was predicted, 1 some inputs failed.

    Raises `RiceError` for wrong usage, or a model or an output that cannot be opened.
    """
    arguments = parser(prog).parse_args(argv)
    check(arguments)
    configure_pillow()
    form = format_of(arguments.format, arguments.output)
    if arguments.resume and is_complete(arguments.output):
        print(f"{arguments.output}: already complete; delete it to start over", file=sys.stderr)
        return 1 if has_errors(arguments.output, form) else 0
    if form == "parquet":
        import_parquet()
    spec = arguments.model or default_model()
    with _open(spec, arguments) as model:
        # a table is read by people, who want one name; a program can pick from all the scores
        top_k = arguments.top_k or (1 if form == "table" and not arguments.grains else len(model.labels))
        writer: Formatter = Writer(form, model.labels, top_k)
        scale = None
        if arguments.grains:
            from rice_lib.tray.record import TrayWriter

            writer = TrayWriter(form, model.labels, top_k)
            scale = {name: getattr(arguments, name) for name in ("mm_per_pixel", "reference_mm", "broken_below")}
        identity = model_identity(spec) if arguments.output else ""
        configuration = Configuration(identity, form, top_k, arguments.reject, scale)
        with open_output(arguments.output, configuration, writer, arguments.resume) as output:
            sources = output.remaining(expand(read_names(arguments.inputs, arguments.null)))
            records = _predict(model, spec, sources, arguments)
            # a bar between lines on the same terminal would spoil both: those of a table, or the names of pictures
            if (arguments.output or not sys.stdout.isatty()) and not (arguments.grains or arguments.explain):
                known = None if "-" in arguments.inputs else expand(arguments.inputs)
                records = with_progress(records, known, output.count)
            for record in records:
                output.write(record)
    return 1 if output.failed else 0


def _open(spec: str | Path, arguments: argparse.Namespace) -> Predictor | FileClient:
    """The model: one that takes pixels, or a server's ensemble, which takes files."""
    sends_pixels = arguments.grains or arguments.explain or arguments.engine == "ray"
    if "://" in str(spec) and str(spec).endswith("_bytes") and not sends_pixels:
        from rice_lib.predict.served import FileClient

        return FileClient(str(spec))
    predictor = open_predictor(spec, arguments.threads)
    if arguments.reject and not predictor.decision.rejects:
        print(f"note: {spec} carries no rejection rule; every image is given a variety", file=sys.stderr)
    return predictor


def _predict(
    model: Predictor | FileClient, spec: str | Path, sources: Iterator[Source], arguments: argparse.Namespace
) -> Iterator[Any]:
    """Records of images (`Record`), or of trays (`TrayRecord`)."""
    if not isinstance(model, Predictor):
        return model.predict_files(sources, arguments.reject)
    if arguments.grains:
        from rice_lib.cli.tray import analyse_files

        return analyse_files(model, sources, arguments)
    if arguments.explain:
        from rice_lib.cli.explain import explain_files

        return explain_files(model, sources, arguments.explain, arguments.reject)
    if arguments.engine == "ray":
        from rice_lib.predict.ray import predict_files as predict_files_by_ray

        return predict_files_by_ray(spec, sources, arguments.batch_size, arguments.reject, arguments.threads or 1)
    if model.processes > 1:
        return predict_files_by_processes(model, spec, sources, arguments.batch_size, arguments.reject)
    return predict_files(model, sources, arguments.batch_size, arguments.reject)


if __name__ == "__main__":
    run_command(main)
