"""`rice infer --grains`: photographs of trays in, counts and shares of the varieties out, with a picture of each.

    rice infer --grains tray.jpg
    rice infer --grains trays/ --mm-per-pixel 0.05 --output grains.csv

The picture, `<tray>.told.png`, lies beside the photograph.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

import numpy as np

from rice_lib.backends.open import open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.contract.decode import BadImageError, open_image
from rice_lib.predict.inputs import expand, read_list
from rice_lib.predict.writers import format_of
from rice_lib.tray.count import count
from rice_lib.tray.output import Answer, Writer

PICTURE = ".told.png"
"""What a tray's name ends in for its annotated picture. Such files are no inputs."""


def run(arguments: argparse.Namespace) -> int:
    """Tell the trays that `rice_lib.infer` was given with `--grains`; returns the exit status.

    Args:
        arguments: `inputs`, `null`, `output`, `format`, `top_k`, `batch_size`, `model`, `threads`, `reject`,
            `mm_per_pixel`, `reference_mm`, as `rice_lib.infer.parser` makes them.

    Raises:
        RiceError: OpenCV is missing, no such model, the output cannot be written.
    """
    try:
        import cv2
    except ImportError:
        raise RiceError("--grains needs OpenCV: pip install 'rice-lib[grains]'") from None
    from rice_lib.backends.open import default_model

    form = format_of(arguments.format, arguments.output)
    if form == "parquet":
        raise RiceError("--grains writes no parquet: take csv or jsonl")
    if arguments.threads is not None:
        cv2.setNumThreads(arguments.threads)
    failed = 0
    with open_predictor(arguments.model or default_model(), arguments.threads) as predictor:
        if predictor.decision is None and arguments.reject:
            print("note: the model carries no rule for refusing images; every thing is told a variety", file=sys.stderr)
        writer = Writer(form, predictor.labels, arguments.top_k)
        with _stream(arguments.output) as stream:
            stream.write(writer.header)
            for path, error in _trays(arguments):
                answer = Answer(path, error=error) if error else _tell(predictor, path, arguments)
                stream.write(writer.text(answer))
                stream.flush()
                failed += answer.error is not None
    return 1 if failed else 0


def _tell(predictor: Predictor, path: str, arguments: argparse.Namespace) -> Answer:
    """One tray, and its picture."""
    try:
        image = np.asarray(open_image(path))
        answer, cut = _answer(predictor, path, image, arguments)
    except BadImageError as error:
        print(f"error: {path}: {error}", file=sys.stderr)
        return Answer(path, error=str(error))
    from rice_lib.tray.picture import draw

    picture = Path(path).with_name(Path(path).stem + PICTURE)
    try:
        with atomic_path(picture) as temporary:
            draw(image, answer, cut).save(temporary)
    except OSError as error:
        print(f"warning: {picture}: the picture cannot be written ({error.strerror or error})", file=sys.stderr)
    else:
        print(f"{path}: outlines and labels are drawn in {picture}", file=sys.stderr)
    return answer


def _answer(
    predictor: Predictor, path: str, image: np.ndarray, arguments: argparse.Namespace
) -> tuple[Answer, list[np.ndarray]]:
    """The grains told and counted, and the outlines of what the border cuts."""
    from rice_lib.tray import scale as scales
    from rice_lib.tray.find import find
    from rice_lib.tray.light import gains
    from rice_lib.tray.tell import tell

    found = find(image)
    if not found.ground.darker:
        print(
            f"warning: {path}: the ground is brighter than the grains, whose shadows blur their outlines: about one in "
            "ten is told wrongly; lay them on a dark or coloured card",
            file=sys.stderr,
        )
    grains, scale = found.grains, scales.TRAINING
    if arguments.mm_per_pixel is not None:
        scale = scales.known(arguments.mm_per_pixel)
    elif arguments.reference_mm is not None:
        reference = scales.find_reference(grains)
        scale = scales.by_reference(reference, arguments.reference_mm)
        grains = [grain for grain in grains if grain is not reference]
        if not grains:
            raise BadImageError("no grains beside the reference object")
    _warn_of_size(path, scales.misfit(grains, scale))
    told = tell(
        predictor,
        image,
        grains,
        gains(image, grains),
        scale.views,
        reject=arguments.reject,
        batch_size=arguments.batch_size,
    )
    answer = Answer(path, grains, told, count(told, predictor.labels, len(found.cut)), scale.mm_per_pixel)
    return answer, found.cut


def _warn_of_size(path: str, times: float | None) -> None:
    if times is not None:
        print(
            f"warning: {path}: the grains fit no variety at this scale (they are about {times:.1f} times the size); "
            "give the tray's --mm-per-pixel, or lay a coin beside them and give its --reference-mm",
            file=sys.stderr,
        )


def _trays(arguments: argparse.Namespace) -> Iterator[tuple[str, str | None]]:
    """Paths of photographs, each with the reason where it stands for none; pictures of earlier runs are left out."""
    for name in arguments.inputs:
        names: Iterator[bytes | str] = iter([name])
        if name == "-":
            names = read_list(sys.stdin.fileno(), b"\0" if arguments.null else b"\n")
        for source in expand(names):
            if not isinstance(source, str):
                yield source.path, source.error
            elif not source.endswith(PICTURE):
                yield source, None
            elif source == os.fsdecode(name):
                yield source, "is a picture that an earlier run drew, not a photograph of a tray"


@contextmanager
def _stream(output: Path | None) -> Iterator[TextIO]:
    """Stdout, or a file that takes its name when everything is told."""
    if output is None:
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        yield sys.stdout
        return
    try:
        with atomic_path(output) as temporary, temporary.open("w", encoding="utf-8", errors="surrogateescape") as file:
            yield file
    except OSError as error:
        raise RiceError(f"{output}: cannot be written ({error.strerror})") from None
