"""`rice infer photo.jpg --explain DIR`: for each image, a picture of the patches that its answer rests on.

The picture of `photo.jpg` is `DIR/photo.why.png`; a second photo of that name becomes `photo-2.why.png`. Each is named
on stdout as it is made, with what was told; what cannot be read is told on stderr. The model is an ONNX file or a
checkpoint: the inside of a plan or of a server cannot be seen.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.contract.decision import Decision
from rice_lib.contract.record import Record
from rice_lib.explain.explainers import BATCH, Explainer, Explanation, open_explainer
from rice_lib.explain.picture import overlay, poster
from rice_lib.predict.inputs import DecodedInput, Source, decode_all, expand, path_of, read_list
from rice_lib.predict.writers import Writer

if TYPE_CHECKING:
    from PIL import Image

SUFFIX = ".why.png"
STEM_BYTES = 200
"""A longer stem is cut: file systems take names of 255 bytes, and the temporary name is longer than the final one."""


def run(arguments: argparse.Namespace) -> int:
    """The command, from `rice infer`'s parsed arguments; returns 0 when all is explained, 1 where some inputs failed.

    Raises:
        RiceError: the model cannot be looked into, or the folder cannot be written.
    """
    if arguments.output is not None or arguments.format is not None:
        raise RiceError("--explain DIR writes pictures into DIR; leave --output and --format out")
    from rice_lib.backends.open import default_model

    model = arguments.model or default_model()
    explainer = open_explainer(model, arguments.threads)
    if explainer.decision is None and arguments.reject:
        print(f"note: {model} carries no rule for refusing images; every one is told a variety", file=sys.stderr)
    folder = _make_folder(arguments.explain)
    sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
    told, failed = (Writer(stream, "table", explainer.labels, 1) for stream in (sys.stdout, sys.stderr))
    names = _Names(folder)
    status = 0
    for result, picture in _explain_all(explainer, _sources(arguments, folder), arguments.reject):
        if picture is None:
            failed.write(result)
            status = 1
            continue
        file = names.next(result.path)
        _save(picture, file)
        told.write(Record(str(file), result.scores, result.reason, result.notes))
    return status


def _explain_all(
    explainer: Explainer, sources: Iterator[Source], reject: bool
) -> Iterator[tuple[Record, Image.Image | None]]:
    """What was told of each input, in their order, with its picture; None where it could not be read."""
    measure = explainer.decision.measure if reject and explainer.decision is not None else None
    batch: list[DecodedInput] = []
    for item in decode_all(sources, BATCH, measure):
        if item is not None:
            batch.append(item)
        if item is None or len(batch) == BATCH:  # None: the next is late, so tell what is there
            yield from _explain_batch(explainer, batch)
            batch = []
    yield from _explain_batch(explainer, batch)


def _explain_batch(explainer: Explainer, batch: list[DecodedInput]) -> Iterator[tuple[Record, Image.Image | None]]:
    good = [item.pixels for item in batch if item.pixels is not None]
    explanation = explainer.explain(np.stack(good)) if good else None
    number = 0
    for item in batch:
        if item.pixels is None or explanation is None:
            yield Record(item.path, error=item.error, notes=item.notes), None
            continue
        result = _result(explainer, item, explanation.logits[number : number + 1])
        yield result, _picture(result, item.pixels, explanation, number)
        number += 1


def _result(explainer: Explainer, item: DecodedInput, logits: np.ndarray) -> Record:
    decision = explainer.decision
    scores = (decision or Decision()).probabilities(logits)
    refused = decision is not None and item.features is not None
    reason = decision.rejections(logits, item.features[None])[0] if refused else None  # type: ignore[union-attr,index]
    return Record(item.path, dict(zip(explainer.labels, scores[0].tolist(), strict=True)), reason, item.notes)


def _picture(result: Record, pixels: np.ndarray, explanation: Explanation, number: int) -> Image.Image:
    relevance, seen = explanation.relevance[number], explanation.seen[number]
    ((likeliest, confidence),) = result.best(1).items()
    if result.reason is None:
        heading, lines = f"{likeliest}  {confidence:.2%}", ("bright: the patches that speak for it",)
    else:
        # a refusal is a rule on the picture, not the model's: the map shows what the model itself would have said
        heading = f"{result.label}: {result.reason}"
        lines = (f"bright: what would speak for {likeliest}, the likeliest variety",)
    return poster(overlay(pixels, relevance, seen), heading, lines, float(relevance.max()), not seen.all())


class _Names:
    """File names in a folder, no two of them the same in one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._used: set[str] = set()

    def next(self, path: str) -> Path:
        """The file for an input's picture."""
        stem = os.fsdecode(os.fsencode(Path(path).stem)[:STEM_BYTES])
        name, number = stem, 1
        while name.casefold() in self._used:  # folded: on some systems A.png is a.png
            number += 1
            name = f"{stem}-{number}"
        self._used.add(name.casefold())
        return self._folder / f"{name}{SUFFIX}"


def _sources(arguments: argparse.Namespace, folder: Path) -> Iterator[Source]:
    """The inputs, without the pictures that an earlier run left in the folder."""
    separator = b"\0" if arguments.null else b"\n"
    for name in arguments.inputs:
        for source in expand(read_list(sys.stdin.fileno(), separator) if name == "-" else [name]):
            path = path_of(source)
            if not (path.endswith(SUFFIX) and os.path.abspath(os.path.dirname(path)) == os.path.abspath(folder)):
                yield source


def _make_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RiceError(f"{folder}: the folder cannot be made ({(error.strerror or 'failed').lower()})") from None
    return folder


def _save(picture: Image.Image, file: Path) -> None:
    try:
        with atomic_path(file) as temporary:
            picture.save(temporary)
    except OSError as error:
        raise RiceError(f"{file}: cannot be written ({error.strerror or error})") from None
