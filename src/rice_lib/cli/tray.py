"""`rice infer --grains`: photographs of trays in, counts and shares of the varieties out, with a picture of each.

    rice infer --grains tray.jpg
    rice infer --grains trays/ --mm-per-pixel 0.05 --output grains.csv

The picture of `tray.jpg`, `tray.jpg.annotated.png`, lies beside the photograph.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.backends.predictor import Predictor, first_line
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.contract.decode import ANNOTATED, BadImageError, open_image
from rice_lib.predict.inputs import Source, Unreadable, expand, path_of, read_names
from rice_lib.predict.resume import Configuration, model_identity, open_output
from rice_lib.predict.writers import format_of
from rice_lib.tray.record import TrayRecord, TrayWriter


def run(arguments: argparse.Namespace) -> int:
    """Analyse the trays that `rice infer --grains` was given; returns the exit status, 1 where some failed.

    Raises `RiceError` where OpenCV is missing, there is no such model, or the output cannot be written.
    """
    try:
        import cv2
    except ImportError:
        raise RiceError("--grains needs OpenCV, not installed here: pip install 'rice-lib[grains]'") from None
    form = format_of(arguments.format, arguments.output)
    if form == "parquet":
        raise RiceError("--grains writes no parquet: take csv or jsonl")
    if arguments.threads is not None:
        cv2.setNumThreads(arguments.threads)
    # annotated pictures of earlier runs are left out, unless the command line names them
    named = arguments.inputs
    sources = (s for s in expand(read_names(named, arguments.null)) if not path_of(s).endswith(ANNOTATED) or s in named)
    spec = arguments.model or default_model()
    with open_predictor(spec, arguments.threads) as predictor:
        if predictor.decision is None and arguments.reject:
            print(f"note: {spec} carries no rejection rule; every object is given a variety", file=sys.stderr)
        top_k = arguments.top_k or len(predictor.labels)
        scale = {name: getattr(arguments, name) for name in ("mm_per_pixel", "reference_mm", "broken_below")}
        how = {**scale, "reject": arguments.reject, "batch_size": arguments.batch_size}
        identity = model_identity(spec) if arguments.output else ""
        configuration = Configuration(identity, form, top_k, arguments.reject, scale)
        writer = TrayWriter(form, predictor.labels, top_k)
        with open_output(arguments.output, configuration, writer, arguments.resume) as output:
            for source in output.remaining(sources):
                output.write(_record(predictor, source, how))
    return 1 if output.failed else 0


def _record(predictor: Predictor, source: Source, how: Mapping[str, Any]) -> TrayRecord:
    """Analyse one tray and draw its picture; whatever goes wrong with it must not lose the others."""
    from rice_lib.tray.analyse import analyse

    if isinstance(source, Unreadable):
        return TrayRecord(source.path, error=source.error)
    if source.endswith(ANNOTATED):
        return TrayRecord(source, error="is an annotated picture, not a photograph of a tray")
    try:
        image = np.asarray(open_image(source))
        record = analyse(predictor, source, image, **how)
        for note in record.notes:
            print(f"warning: {source}: {note}", file=sys.stderr)
        _draw(image, record)
        return record
    except (BadImageError, OSError, RiceError) as error:
        message = first_line(error)
    except Exception as error:
        traceback.print_exc()  # a fault of the program: whoever reports it needs the place
        message = f"cannot be analysed ({type(error).__name__}: {first_line(error)})"
    print(f"error: {source}: {message}", file=sys.stderr)
    return TrayRecord(source, error=message)


def _draw(image: np.ndarray, record: TrayRecord) -> None:
    """Save the annotated picture beside the photograph, under the photograph's full name: no two inputs share it."""
    from rice_lib.tray.picture import draw

    picture = Path(record.path + ANNOTATED)
    try:
        with atomic_path(picture) as temporary:
            draw(image, record).save(temporary)
    except RiceError as error:
        print(f"warning: no picture: {error}", file=sys.stderr)
    else:
        print(f"{record.path}: outlines and labels are drawn in {picture}", file=sys.stderr)
