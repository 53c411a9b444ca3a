"""One interface to every form a model takes: a checkpoint directory, ONNX, a TensorRT plan, a Triton server.

`open_predictor` reads a model's name as a person writes it and hands on a `Predictor`: uint8 pixels in,
float32 logits out, with the labels that the model itself carries. A backend's library (torch, onnxruntime,
tensorrt, tritonclient) is imported when such a model is opened, not before, so that predicting with ONNX
never pays for torch.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from rice_lib.contract import decision as decisions
from rice_lib.contract.decision import Decision
from rice_lib.common.errors import RiceError
from rice_lib.common.machine import cores
from rice_lib.contract.decode import IMAGE_SIZE

if TYPE_CHECKING:
    from rice_lib.predict.served import TritonTeller

MAX_BATCH = 256
"""Images given to a model in one call where neither the model nor the caller says less: bounds memory, and is
beyond the batch where throughput stops growing on every engine measured."""

LEAST_SHARE = 8
"""Images of a batch that make a core's own share worth while: below, one core alone is less than fully used."""


class Predictor(ABC):
    """A model that tells images apart.

    A backend sets `name`, `labels` and `max_batch`, and implements `_forward`. Use it as a context manager,
    or call
    `close`.
    """

    name: str
    """Engine and the device it really runs on, as `onnxruntime/CPU`."""
    labels: tuple[str, ...]
    """Class names in the order of the logits, from the model's own metadata."""
    max_batch: int
    """Most images of one call to the engine."""
    decision: Decision | None = None
    """How the logits are read, from the model's own metadata; None where it carries nothing of the kind."""

    def logits(self, pixels: np.ndarray) -> np.ndarray:
        """Logits of images under the image contract (`rice_lib.contract.decode`).

        Args:
            pixels: uint8 RGB `[N, 224, 224, 3]`; any N, taken to the engine `max_batch` at a time.

        Returns:
            float32 `[N, len(labels)]`.

        Raises:
            ValueError: another shape or dtype.
            RiceError: the engine failed.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1:] != (IMAGE_SIZE, IMAGE_SIZE, 3):
            raise ValueError(f"expected uint8 [N, {IMAGE_SIZE}, {IMAGE_SIZE}, 3], got {pixels.dtype} {pixels.shape}")
        if not len(pixels):
            return np.empty((0, len(self.labels)), np.float32)
        return self._forward_all(np.ascontiguousarray(pixels))

    def _forward_all(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 logits of any number of images but none, `max_batch` at a time."""
        parts = [self._forward(pixels[i : i + self.max_batch]) for i in range(0, len(pixels), self.max_batch)]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @abstractmethod
    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        """Float32 logits of 1 to `max_batch` images, C-contiguous uint8."""

    def close(self) -> None:  # noqa: B027  (most backends hold nothing that needs giving back)
        """Give back what the engine holds (memory, connections)."""

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def open_predictor(spec: str | Path, threads: int | None = None, max_batch: int | None = None) -> Predictor:
    """Open a model by its name.

    Args:
        spec: a checkpoint directory, an `.onnx` file, a TensorRT plan (`.plan`, `.engine`), or a model on a
            Triton
            server: `triton://host:port/name` over HTTP, `triton+grpc://host:port/name` over gRPC.
        threads: CPU threads of the engine; None lets it use every core.
        max_batch: most images of one call; None takes the model's own limit.

    Raises:
        RiceError: no such model, a damaged or foreign one, or a library that is not installed.
    """
    text = os.fspath(spec)
    if "://" in text:
        predictor = _open_triton(text)
    else:
        path = Path(text)
        if not path.exists():
            raise RiceError(f"{path}: no such model")
        if path.is_dir():
            predictor = CheckpointPredictor(path, threads)
        elif path.suffix == ".onnx":
            predictor = OnnxPredictor(path, threads)
        elif path.suffix in (".plan", ".engine"):
            from rice_lib.backends.plan import TensorRTPredictor

            predictor = TensorRTPredictor(path)
        else:
            raise RiceError(
                f"{path}: not a model; give a checkpoint directory, an .onnx, a .plan, or triton://host:port/name"
            )
    if max_batch is not None:
        predictor.max_batch = max(1, min(max_batch, predictor.max_batch))
    return predictor


def open_teller(spec: str | Path) -> TritonTeller | None:
    """What tells files by a server that takes them as they are; None where a model takes pixels.

    Args:
        spec: as in `open_predictor`.

    Raises:
        RiceError: no server there, or no such model.
    """
    text = os.fspath(spec)
    if "://" not in text:
        return None
    from rice_lib.predict.served import open_teller

    return open_teller(text)


def probabilities(logits: np.ndarray) -> np.ndarray:
    """Softmax over the last axis: float64, rows sum to 1."""
    return Decision().probabilities(logits)


class OnnxPredictor(Predictor):
    """ONNX Runtime: CUDA where the session really got it, else the CPU.

    On a CPU a large batch is cut into one share a core, each computed by a thread of its own: no core waits for
    another within the graph, and the cores are free for decoding in between (ONNX Runtime's own threads spin). A
    small batch is computed by all cores together, which answers sooner.
    """

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load the model; raises `RiceError` where the file is damaged or not one of this project's
        exports."""
        ort = import_onnxruntime()
        wanted = ["CPUExecutionProvider"]
        if "CUDAExecutionProvider" in ort.get_available_providers():
            ort.preload_dlls()  # finds the CUDA libraries that pip installed beside onnxruntime-gpu or torch
            wanted.insert(0, "CUDAExecutionProvider")
        try:
            self._session = ort.InferenceSession(path, _session_options(ort, threads), providers=wanted)
        except Exception as error:  # onnxruntime raises a class of its own for each of its status codes
            raise RiceError(f"{path}: ONNX Runtime cannot load it ({_first_line(error)})") from None
        # a listed provider may have failed to start: the session's own list is the one that is true
        self.name = f"onnxruntime/{self._session.get_providers()[0].removesuffix('ExecutionProvider')}"
        self.max_batch = MAX_BATCH
        self._input = _check_onnx_inputs(path, self._session)
        metadata = self._session.get_modelmeta().custom_metadata_map
        self.labels = parse_labels(metadata.get("labels"), f"{path}: the ONNX metadata")
        self.precision = metadata.get("precision", "float32")
        width = self._session.get_outputs()[0].shape[-1]
        if width != len(self.labels):
            raise RiceError(f"{path}: {len(self.labels)} labels in its metadata for {width} logits; export it again")
        self.decision = parse_decision(metadata.get(decisions.KEY), f"{path}: the ONNX metadata", self.labels)

        on_cpu = self._session.get_providers()[0] == "CPUExecutionProvider"
        self._cores = (threads or cores()) if on_cpu else 1
        self._share = _Share(path)

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        shares = min(self._cores, len(pixels) // LEAST_SHARE)
        try:
            if shares < 2:
                return self._session.run(None, {self._input: pixels})[0]
            return self._share.run(self._input, np.array_split(pixels, shares))
        except Exception as error:
            raise RiceError(f"ONNX Runtime failed on a batch of {len(pixels)} ({_first_line(error)})", 1) from error

    def close(self) -> None:
        """Let the threads go."""
        self._share.close()


class _Share:
    """A second session of the same model for shares of large batches, made when the first of these comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: Any = None
        self._pool: Any = None

    def run(self, name: str, shares: list[np.ndarray]) -> np.ndarray:
        """Logits of all shares, in order; each is computed on one core."""
        if self._session is None:
            from concurrent.futures import ThreadPoolExecutor

            ort = import_onnxruntime()
            self._session = ort.InferenceSession(
                self._path, _session_options(ort, threads=1), providers=["CPUExecutionProvider"]
            )
            self._pool = ThreadPoolExecutor(thread_name_prefix="onnxruntime")
        told = self._pool.map(lambda share: self._session.run(None, {name: share})[0], shares)
        return np.concatenate(list(told))

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()


class CheckpointPredictor(Predictor):
    """Torch: the checkpoint itself, on the GPU where there is one."""

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        """Load the checkpoint; raises `RiceError` where torch is missing or the directory is not a
        checkpoint."""
        try:
            import torch
        except ImportError:
            raise RiceError(
                f"{directory}: a checkpoint needs torch, not installed here (pip install 'rice-lib[train]')"
            ) from None
        from rice_lib.models.vit import load_pixel_classifier

        if threads is not None:
            torch.set_num_threads(threads)
        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_pixel_classifier(directory).to(self._device)
        self.labels = tuple(self.model.labels)
        self.decision = read_decision(directory, self.labels)
        self.name = f"torch/{self._device.type.upper()}"
        self.max_batch = MAX_BATCH

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            return self.model(self._torch.from_numpy(pixels).to(self._device)).cpu().numpy()


def _session_options(ort: Any, threads: int | None) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3  # errors only: its warnings about constant folding mean nothing to a user
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def import_onnxruntime() -> Any:
    """The `onnxruntime` module, or a `RiceError` that says what to install."""
    try:
        import onnxruntime
    except ImportError:
        raise RiceError("ONNX Runtime is not installed: pip install 'rice-lib[cpu]' (or 'rice-lib[gpu]')") from None
    return onnxruntime


def parse_labels(text: str | None, where: str) -> tuple[str, ...]:
    """Labels from the JSON list that a model's metadata holds; raises `RiceError` naming `where`."""
    try:
        labels = json.loads(text or "")
    except ValueError:
        labels = None
    if not isinstance(labels, list) or not labels or not all(isinstance(name, str) for name in labels):
        raise RiceError(f"{where} holds no labels: not a model of this project (python -m rice_lib export makes one)")
    return tuple(labels)


def parse_decision(text: str | None, where: str, labels: Sequence[str]) -> Decision | None:
    """The decision that a model's metadata holds; None where it holds none (a model of before there were any).

    Raises:
        RiceError: naming `where`: it is damaged, or belongs to a model of another number of labels.
    """
    return Decision.from_json(text, where, len(labels)) if text else None


def read_decision(checkpoint: Path, labels: Sequence[str]) -> Decision | None:
    """The decision beside a checkpoint's weights, as `parse_decision`."""
    file = checkpoint / decisions.FILE
    try:
        return parse_decision(file.read_text(encoding="utf-8"), str(file), labels) if file.is_file() else None
    except (OSError, UnicodeDecodeError) as error:
        raise RiceError(f"{file}: cannot be read ({_first_line(error)})") from None


def _open_triton(url: str) -> Predictor:
    from rice_lib.backends.triton_connection import parse_url

    protocol, address, model = parse_url(url)
    from rice_lib.backends.triton import TritonPredictor

    return TritonPredictor(address, model, protocol)


def _check_onnx_inputs(path: Path, session: Any) -> str:
    """The name of the one input, uint8 `[batch, 224, 224, 3]` with a free batch."""
    inputs, outputs = session.get_inputs(), session.get_outputs()
    fits = (
        len(inputs) == len(outputs) == 1
        and inputs[0].type == "tensor(uint8)"
        and inputs[0].shape[1:] == [IMAGE_SIZE, IMAGE_SIZE, 3]
        and not isinstance(inputs[0].shape[0], int)
        and outputs[0].type == "tensor(float)"
    )
    if not fits:
        has = ", ".join(f"{i.name} {i.type} {i.shape}" for i in inputs)
        raise RiceError(
            f"{path}: not a model of this project: it takes {has}, not one uint8 "
            f"[batch, {IMAGE_SIZE}, {IMAGE_SIZE}, 3], or gives no float32 logits"
        )
    return inputs[0].name


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
