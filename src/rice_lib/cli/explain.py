"""`rice infer photo.jpg --explain DIR`: draw the patches that each image's prediction rests on.

The picture of `photo.jpg` is `DIR/photo.why.png`; a second photo of that name becomes `photo-2.why.png`. Each is named
on stderr as it is made.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from rice_lib.backends.predictor import Predictor
from rice_lib.common.files import atomic_path
from rice_lib.contract.decode import EXPLAINED
from rice_lib.contract.prediction import Prediction
from rice_lib.contract.record import Record
from rice_lib.explain.occlusion import relevance_maps
from rice_lib.explain.picture import overlay, poster
from rice_lib.predict.inputs import Source, decode_all
from rice_lib.predict.pipeline import predict_batch

STEM_BYTES = 200  # a longer stem is cut: file systems take names of 255 bytes


def explain_files(predictor: Predictor, sources: Iterable[Source], folder: Path, reject: bool) -> Iterator[Record]:
    """Classify files and draw what decides; one record a source. Raises `RiceError` where a picture cannot be written.

    `reject` applies the model's rejection rule.
    """
    used: set[str] = set()
    for item in decode_all(sources, batch_size=2):
        if item is None:  # the next name is late, and nothing waits for it
            continue
        (record,) = predict_batch(predictor, [item], reject)
        if item.pixels is not None and record.prediction is not None:
            (relevance,) = relevance_maps(predictor, item.pixels[None])
            file = folder / _free_name(item.path, used)
            with atomic_path(file) as temporary:
                picture_of(record.prediction, item.pixels, relevance).save(temporary)
            print(f"{item.path}: what decides is drawn in {file}", file=sys.stderr)
        yield record


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
