"""`rice infer --grains`: photographs of trays in, counts and shares of the varieties out, with a picture of each.

The picture of `tray.jpg`, `tray.jpg.annotated.png`, lies beside the photograph.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from rice_lib.backends.predictor import Predictor, first_line
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.contract.decode import ANNOTATED, BadImageError, open_image
from rice_lib.predict.inputs import Source, Unreadable
from rice_lib.tray.record import TrayRecord


def analyse_files(
    predictor: Predictor, sources: Iterable[Source], arguments: argparse.Namespace
) -> Iterator[TrayRecord]:
    """Analyse trays as `rice infer --grains` was asked to; one record a source. Raises `RiceError` without OpenCV."""
    try:
        import cv2
    except ImportError:
        raise RiceError("--grains needs OpenCV, not installed here: pip install 'rice-lib[grains]'") from None
    if arguments.threads is not None:
        cv2.setNumThreads(arguments.threads)
    names = ("mm_per_pixel", "reference_mm", "broken_below", "reject", "batch_size")
    for source in sources:
        yield _record(predictor, source, {name: getattr(arguments, name) for name in names})


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
