"""Files to records in this process: decoded by threads, predicted in batches, in order, with flat memory."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterable, Iterator

import numpy as np

from rice_lib.contract.prediction import Classifier, Prediction, predict
from rice_lib.contract.record import Record
from rice_lib.predict.inputs import DecodedInput, Source, decode_all, decode_source

BATCH_SIZE = 32

PROGRESS_AFTER_S = 2.0
"""A run shorter than this shows no progress."""


def predict_files(
    predictor: Classifier, sources: Iterable[Source], batch_size: int = BATCH_SIZE, reject: bool = True
) -> Iterator[Record]:
    """Classify files.

    Args:
        predictor: the model.
        sources: what `rice_lib.predict.inputs.expand` gives.
        batch_size: images of one call to the model.
        reject: whether the model's rejection rule is applied.

    Yields:
        One record an input, in order: a file that cannot be read is a record with its error.

    Raises:
        RiceError: the engine failed.
    """
    for batch in _batches(decode_all(sources, batch_size), batch_size):
        yield from predict_batch(predictor, batch, reject)


def predict_in_turn(
    predictor: Classifier, sources: Iterable[Source], batch_size: int = BATCH_SIZE, reject: bool = True
) -> Iterator[Record]:
    """Classify files as `predict_files`, in the caller's thread alone: for a process that has one core.

    A batch is decoded, then it is predicted, then its features are computed: each kind of work runs faster where it
    stays with its own code and data (1.85 ms an image in place of 2.05 with one image after the other).
    """
    for batch in _batches(map(decode_source, sources), batch_size):
        yield from predict_batch(predictor, batch, reject)


def predict_batch(predictor: Classifier, batch: list[DecodedInput], reject: bool = True) -> Iterator[Record]:
    """Classify decoded inputs in one call to the model; one record an input, in order."""
    readable = [item for item in batch if item.pixels is not None]
    predictions: Iterator[Prediction] = iter(())
    if readable:
        pixels = np.stack([item.pixels for item in readable])  # type: ignore[misc]  # none is None
        predictions = iter(predict(predictor, pixels, reject=reject))
    for item in batch:
        prediction = next(predictions) if item.pixels is not None else None
        yield Record(item.path, prediction, item.notes, item.error)


def _batches(inputs: Iterable[DecodedInput | None], batch_size: int) -> Iterator[list[DecodedInput]]:
    """Inputs by batches of `batch_size` images. One is closed early where the next input is late (None), so that a
    slow list on stdin is answered line by line."""
    batch: list[DecodedInput] = []
    readable = 0
    for item in inputs:
        if item is not None:
            batch.append(item)
            readable += item.pixels is not None
        if item is None or not readable or readable == batch_size:
            yield batch
            batch, readable = [], 0
    yield batch


def with_progress(records: Iterable[Record], names: Iterable[Source] | None, done: int = 0) -> Iterator[Record]:
    """Pass records on, with a bar on stderr (a line now and then where it is no terminal) once a run takes a while.

    Args:
        records: of the run.
        names: as many as there will be records, counted by a thread of its own once there is a bar; None where nobody
            can know them beforehand.
        done: records of an interrupted run.
    """
    terminal, begun, records = sys.stderr.isatty(), time.monotonic(), iter(records)
    for record in records:
        yield record
        done += 1
        if time.monotonic() - begun > (PROGRESS_AFTER_S if terminal else 5 * PROGRESS_AFTER_S):
            break
    else:
        return
    from tqdm import tqdm

    every, to = 0.2 if terminal else 30.0, sys.stderr
    bar = tqdm(records, "predicted", unit=" images", initial=done, file=to, mininterval=every, dynamic_ncols=True)

    def count() -> None:
        bar.total = sum(1 for _ in names or ())

    if names is not None:
        threading.Thread(target=count, name="count", daemon=True).start()
    yield from bar
