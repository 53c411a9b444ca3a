"""`rice infer photo.jpg --explain DIR`: draw the patches that each image's prediction rests on.

The picture of `photo.jpg` is `DIR/photo.why.png`; a second photo of that name becomes `photo-2.why.png`. Each is named
on stdout as it is made, with the prediction; files that cannot be read are named on stderr.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from rice_lib.backends.open import default_model, open_predictor
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.contract.decode import EXPLAINED
from rice_lib.contract.prediction import Prediction
from rice_lib.explain.occlusion import relevance_maps
from rice_lib.explain.picture import overlay, poster
from rice_lib.predict.inputs import Source, decode_all, expand, path_of, read_names
from rice_lib.predict.pipeline import predict_batch
from rice_lib.predict.writers import Writer

STEM_BYTES = 200  # a longer stem is cut: file systems take names of 255 bytes


def run(arguments: argparse.Namespace) -> int:
    """Run the command on `rice infer`'s parsed arguments; returns 0 when all is explained, 1 where some inputs failed.

    Raises `RiceError` where the model cannot be opened, or the folder cannot be written.
    """
    if arguments.output is not None or arguments.format is not None:
        raise RiceError("--explain DIR writes pictures into DIR; leave --output and --format out")
    spec = arguments.model or default_model()
    status = 0
    with open_predictor(spec, arguments.threads) as predictor:
        if predictor.decision is None and arguments.reject:
            print(f"note: {spec} carries no rejection rule; every image is given a variety", file=sys.stderr)
        folder = arguments.explain
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RiceError(f"{folder}: the folder cannot be made ({(error.strerror or 'failed').lower()})") from None
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")  # type: ignore[union-attr]
        line = Writer("table", predictor.labels, 1).text
        used: set[str] = set()
        for item in decode_all(_sources(arguments, folder), batch_size=2):
            if item is None:  # the next name is late, and nothing waits for it
                continue
            (record,) = predict_batch(predictor, [item], arguments.reject)
            if item.pixels is None or record.prediction is None:
                print(line(record.as_dict(1)), end="", file=sys.stderr)
                status = 1
                continue
            (relevance,) = relevance_maps(predictor, item.pixels[None])
            file = folder / _free_name(item.path, used)
            with atomic_path(file) as temporary:
                picture_of(record.prediction, item.pixels, relevance).save(temporary)
            print(line(replace(record, path=str(file)).as_dict(1)), end="", flush=True)
    return status


def picture_of(prediction: Prediction, pixels: np.ndarray, relevance: np.ndarray) -> Image.Image:
    """Draw what in an image decides, under its prediction: RGB, from `pixels` and a map of `relevance_maps`."""
    if prediction.confidence is not None:
        heading, line = f"{prediction.label}  {prediction.confidence:.2%}", "bright: the patches that speak for it"
    else:
        # the rejection rule does not look at patches: the map shows what the model itself would have said
        heading = f"{prediction.label}: {prediction.reason}"
        line = f"bright: what would speak for {prediction.likeliest}, the likeliest variety"
    return poster(overlay(pixels, relevance), heading, line, float(relevance.max()))


def _free_name(path: str, used: set[str]) -> str:
    """Name the picture of an input, unlike all `used` in this run."""
    stem = os.fsdecode(os.fsencode(Path(path).stem)[:STEM_BYTES])
    name, number = stem, 1
    while name.casefold() in used:  # folded: on some systems A.png is a.png
        number += 1
        name = f"{stem}-{number}"
    used.add(name.casefold())
    return name + EXPLAINED


def _sources(arguments: argparse.Namespace, folder: Path) -> Iterator[Source]:
    """Give the inputs, without the pictures that an earlier run left in the folder."""
    for source in expand(read_names(arguments.inputs, arguments.null)):
        path = path_of(source)
        if not (path.endswith(EXPLAINED) and os.path.abspath(os.path.dirname(path)) == os.path.abspath(folder)):
            yield source
