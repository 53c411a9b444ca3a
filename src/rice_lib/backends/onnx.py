"""A model as an ONNX file, run by ONNX Runtime. The library is imported when a model is opened."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from rice_lib.backends.predictor import MAX_BATCH, MIN_SHARE, Predictor, first_line, parse_decision, parse_labels
from rice_lib.common.errors import RiceError
from rice_lib.common.machine import cores
from rice_lib.contract.decision import KEY

_CPU = "CPUExecutionProvider"


class OnnxPredictor(Predictor):
    """ONNX Runtime: CUDA where the session really got it, else the CPU.

    On a CPU a large batch is cut into shares that fit a core's cache, each computed by one thread: no core waits for
    another within the graph, and the cores are free for decoding in between (ONNX Runtime's own threads spin). A
    small batch is computed by all cores together, which takes less time.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load the model; raises `RiceError` where the file is damaged or not one of this project's exports."""
        ort = import_onnxruntime()
        wanted = [_CPU]
        if "CUDAExecutionProvider" in ort.get_available_providers():
            ort.preload_dlls()  # finds the CUDA libraries that pip installed beside onnxruntime-gpu or torch
            wanted = ["CUDAExecutionProvider", _CPU]
        try:
            self._session = ort.InferenceSession(path, session_options(ort, threads), providers=wanted)
        except Exception as error:  # onnxruntime raises a class of its own for each of its status codes
            raise RiceError(f"{path}: ONNX Runtime cannot load it ({first_line(error)})") from None
        # a listed provider may have failed to start: the session's own list is the one that is true
        provider = self._session.get_providers()[0]
        self.name, self.max_batch = f"onnxruntime/{provider.removesuffix('ExecutionProvider')}", MAX_BATCH
        self._input = self._session.get_inputs()[0].name
        metadata, where = self._session.get_modelmeta().custom_metadata_map, f"{path}: the ONNX metadata"
        self.labels = parse_labels(metadata.get("labels"), where)
        self.precision = metadata.get("precision", "float32")
        width = self._session.get_outputs()[0].shape[-1]
        if width != len(self.labels):
            raise RiceError(f"{path}: {len(self.labels)} labels in its metadata for {width} logits; export it again")
        self.decision = parse_decision(metadata.get(KEY), where, self.labels)
        self._path, self._cores = path, (threads or cores()) if provider == _CPU else 0
        self.processes = max(1, self._cores)

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        shares = len(pixels) // MIN_SHARE if self._cores else 1
        try:
            if shares < 2:
                return self._session.run(None, {self._input: pixels})[0]
            session, pool = self._one_core
            parts = pool.map(lambda share: session.run(None, {self._input: share})[0], np.array_split(pixels, shares))
            return np.concatenate(list(parts))
        except Exception as error:
            raise RiceError(f"ONNX Runtime failed on a batch of {len(pixels)} ({first_line(error)})", 1) from error

    @cached_property
    def _one_core(self) -> tuple[Any, ThreadPoolExecutor]:
        """A session of one thread, and threads to run it, one a core, made when the first large batch comes."""
        ort, session = import_onnxruntime(), self._session
        if self._cores > 1:
            session = ort.InferenceSession(self._path, session_options(ort, threads=1), providers=[_CPU])
        return session, ThreadPoolExecutor(self._cores, "onnxruntime")

    def close(self) -> None:
        """Stop the threads."""
        if "_one_core" in vars(self):
            self._one_core[1].shutdown()


def session_options(ort: Any, threads: int | None = None) -> Any:
    """Set a session's CPU threads (None: every core), and leave its warnings out."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings about constant folding mean nothing to a user
    if threads is None and cores() < (os.cpu_count() or 1):
        threads = cores()  # its own default counts the machine's, whatever the container grants
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def import_onnxruntime() -> Any:
    """Import `onnxruntime`, with its telemetry off; raises `RiceError` where it is not installed.

    Its telemetry writes a device id and a database below the home directory and looks up a name. Only the environment
    turns that off, and only before the import (ONNX Runtime 1.32, docs/Privacy.md).
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError:
        raise RiceError("ONNX Runtime is not installed: pip install 'rice-lib[cpu]' (or 'rice-lib[gpu]')") from None
    return onnxruntime
