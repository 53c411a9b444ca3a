"""Bulk prediction on more than one machine: Ray Data hands batches of paths to workers, records come back in order.

Each worker holds the model, and reads, decodes and predicts its batches as `rice_lib.predict.pipeline` does in one
process, so the records are the same. Paths and the model must be readable under the same names on every machine (a
shared file system), and rice-lib installed there.

Ray is found as it always is: the cluster that the environment variable RAY_ADDRESS names, else the one running on
this machine (`ray start`), else one is started on this machine for this run.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from rice_lib.backends.open import split_engine
from rice_lib.common.errors import RiceError
from rice_lib.contract.record import Record
from rice_lib.predict import pipeline
from rice_lib.predict.inputs import Source, path_of

JOIN_S = 10
"""How long the machine that RAY_ADDRESS names may take to answer."""

BLOCK = 1024
"""Inputs that a worker takes at a time: some tens of seconds of work, so that workers share the end of a run evenly,
and what is lost with one is soon done again. They travel pickled, in a row of Ray's table: Arrow's text is UTF-8."""


def predict_files(
    model: str | Path, sources: Iterator[Source], batch_size: int, reject: bool, threads: int
) -> Iterator[Record]:
    """Classify files as `rice_lib.predict.pipeline.predict_files`, by all workers of a Ray cluster.

    Takes a model's name, as `rice_lib.backends.open.open_predictor` does, and the CPU `threads` of each worker. All
    names of files are gathered first, in Ray's object store. Raises `RiceError` where Ray is not installed, or the
    cluster failed.
    """
    ray = _import_ray()
    with _cluster(ray):
        try:
            blocks = _blocks(sources)
            if not blocks:
                return
            context = ray.data.DataContext.get_current()
            context.execution_options.preserve_order = True
            context.enable_progress_bars = False
            predicted = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map(
                Worker,
                fn_constructor_args=(absolute(model), batch_size, reject, threads),
                **_resources(ray, model, threads, len(blocks)),
            )
            for row in predicted.iter_rows():
                yield from pickle.loads(row["records"])
        except ray.exceptions.RayError as error:
            raise RiceError(f"Ray failed: {_why(error)}", 1) from error


def absolute(model: str | Path) -> str:
    """A model's name that means the same in every working directory."""
    text = os.fspath(model)
    engine, file = split_engine(text)
    return text if "://" in text else engine + os.path.abspath(file)


class Worker:
    """An actor that holds the model and classifies blocks of paths."""

    def __init__(self, model: str, batch_size: int, reject: bool, threads: int) -> None:
        from rice_lib.backends.open import open_predictor
        from rice_lib.contract.decode import configure_pillow

        configure_pillow()
        self._predictor = open_predictor(model, threads)
        # a thread that decodes beside the model would take a second core, which is another worker's
        classify = pipeline.predict_files if threads > 1 or "://" in model else pipeline.predict_in_turn
        self._classify = partial(classify, self._predictor, batch_size=batch_size, reject=reject)

    def __call__(self, block: dict[str, Any]) -> dict[str, Any]:
        """Classify a block of `_blocks`: its pickled `records`."""
        given, sources = zip(*pickle.loads(block["sources"]), strict=True)
        records = self._classify(sources)
        named = [replace(record, path=path) for path, record in zip(given, records, strict=True)]
        return {"records": pickle.dumps(named)}


def _blocks(sources: Iterator[Source]) -> list[dict[str, Any]]:
    """Cut inputs into blocks of pairs: a path as given, and the source as another directory finds it."""
    pairs = ((path_of(source), os.path.abspath(source) if isinstance(source, str) else source) for source in sources)
    cut = iter(lambda: list(islice(pairs, BLOCK)), [])
    return [{"sources": pickle.dumps(block)} for block in cut]


def _resources(ray: Any, model: str | Path, threads: int, blocks: int) -> dict[str, Any]:
    """What a worker is given, and how many there are: one a GPU where the cluster has any, else as its CPUs allow."""
    has = ray.cluster_resources()
    gpus = 0 if "://" in os.fspath(model) else int(has.get("GPU", 0))
    most = gpus or int(has.get("CPU", 1)) // threads
    if not most:
        raise RiceError(f"--threads {threads}: the Ray cluster has {int(has.get('CPU', 0))} CPUs")
    pool = ray.data.ActorPoolStrategy(size=min(most, blocks))
    return {"compute": pool, "num_cpus": threads, "num_gpus": 1 if gpus else 0}


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """Join the cluster, or start one; leave it, or end it, afterwards."""
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS", "")
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():  # where nobody answers, Ray itself waits for minutes, deaf to signals
            socket.create_connection((host, int(port)), JOIN_S).close()
    except OSError as error:
        raise RiceError(f"RAY_ADDRESS={address}: no Ray cluster answers there ({error.strerror or error})") from None
    try:
        ray.init(logging_level=logging.ERROR, log_to_driver=False, include_dashboard=False)
    except Exception as error:  # Ray raises plain ones here, too
        raise RiceError(f"Ray cannot be reached or started: {_why(error)}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    # a person's own settings stand; what fails reaches us as an exception, with or without Ray's log of it
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError:
        raise RiceError("--engine ray needs Ray, not installed here: pip install 'rice-lib[bulk]'") from None
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it says that its bars are off
    return ray


def _why(error: BaseException) -> str:
    """The last line that says something: Ray puts the worker's own error below its traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
