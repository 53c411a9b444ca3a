"""A TensorRT plan and its manifest, run by TensorRT.

A plan runs only with the TensorRT release and on the kind of GPU that built it: the engine manifest (`<plan>.json`)
records both, and `check_manifest` rejects a mismatch in one line. The calls are those that TensorRT 10 and 11 have in
common (tensors by name, `execute_async_v3`); device memory is taken once, for the plan's largest batch.
"""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from rice_lib.backends.cuda import Cuda, Gpu
from rice_lib.backends.predictor import Predictor, parse_decision
from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json, sha256_file, write_json
from rice_lib.contract.decode import IMAGE_SIZE

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)


class TensorRTPredictor(Predictor):
    """A plan on the GPU that built it. Not for several threads at once."""

    def __init__(self, plan: Path) -> None:
        """Check the manifest and load the plan; raises `RiceError` where either is missing or does not belong here."""
        manifest = EngineManifest.read(plan)
        trt = import_tensorrt(manifest.flavour)
        self._cuda = Cuda()
        check_manifest(manifest, plan, trt.__version__, self._cuda.gpu())
        self._logger = make_logger(trt)
        self._engine = trt.Runtime(self._logger).deserialize_cuda_engine(plan.read_bytes())
        if self._engine is None:
            raise RiceError(f"{plan}: {trt.__name__} cannot load it ({'; '.join(self._logger.errors)})")
        self._context = self._engine.create_execution_context()
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        modes = {self._engine.get_tensor_mode(name): name for name in names}
        self._input, output = modes[trt.TensorIOMode.INPUT], modes[trt.TensorIOMode.OUTPUT]
        self.labels, self.max_batch, self._min_batch = manifest.labels, manifest.profile.max, manifest.profile.min
        self.decision = parse_decision(manifest.decision, str(manifest_file(plan)), manifest.labels)
        self.name = f"{manifest.flavour}/GPU"
        self._stream = self._cuda.call("cudaStreamCreate")
        self._images = int(self._cuda.call("cudaMalloc", self.max_batch * IMAGE_SIZE * IMAGE_SIZE * 3))
        self._logits = int(self._cuda.call("cudaMalloc", self.max_batch * len(self.labels) * 4))
        self._context.set_tensor_address(self._input, self._images)
        self._context.set_tensor_address(output, self._logits)

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        count = len(pixels)
        if count < self._min_batch:  # the last, short batch of a plan that takes no single image
            pixels = np.pad(pixels, [(0, self._min_batch - count), (0, 0), (0, 0), (0, 0)])
        logits = np.empty((len(pixels), len(self.labels)), np.float32)
        self._context.set_input_shape(self._input, pixels.shape)
        self._cuda.upload(self._images, pixels, self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise RiceError(f"TensorRT failed on a batch of {count} ({'; '.join(self._logger.errors)})", 1)
        self._cuda.download(logits, self._logits, self._stream)
        return logits[:count]

    def close(self) -> None:
        """Give the device memory back."""
        if self._stream is not None:
            self._cuda.call("cudaFree", self._images)
            self._cuda.call("cudaFree", self._logits)
            self._cuda.call("cudaStreamDestroy", self._stream)
            self._stream = None


@dataclass(frozen=True)
class BatchProfile:
    """The batches a plan takes: `min` to `max`, tuned for `opt`; raises `RiceError` where they are out of order."""

    min: int = 1
    opt: int = 8
    max: int = 32

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise RiceError(f"batch profile {self.min}/{self.opt}/{self.max}: wants 1 <= min <= opt <= max")


@dataclass(frozen=True)
class Agreement:
    """How a plan's logits compare with ONNX Runtime's, of the same ONNX file on the same images."""

    images: int
    labels_equal: int
    """Images whose highest logit is the same one."""
    max_abs_difference: float
    mean_abs_difference: float
    """Of the logits of all images."""

    @classmethod
    def of(cls, logits: np.ndarray, reference: np.ndarray) -> Agreement:
        """Compare logits `[images, classes]`, at least one image, with those of the reference."""
        difference, equal = np.abs(logits - reference), logits.argmax(1) == reference.argmax(1)
        return cls(len(logits), int(equal.sum()), float(difference.max()), float(difference.mean()))

    def __str__(self) -> str:
        return (
            f"{self.labels_equal} of {self.images} labels as ONNX Runtime's, logits within "
            f"{self.max_abs_difference:.1e} (on average {self.mean_abs_difference:.1e})"
        )


@dataclass(frozen=True)
class EngineManifest:
    """What a plan was built from, by what, and for what."""

    flavour: Flavour
    tensorrt: str
    """Its full version, as `10.9.0.34`."""
    gpu: Gpu | None
    """None: built without one (`tensorrt_rtx` can)."""
    onnx: str
    onnx_sha256: str
    plan_sha256: str
    precision: str
    profile: BatchProfile
    labels: tuple[str, ...]
    decision: str | None = None
    """`Decision.to_json`, as the ONNX file carries it."""
    agreement: Agreement | None = None
    """With ONNX Runtime; None: not checked on images."""

    @classmethod
    def read(cls, plan: Path) -> EngineManifest:
        """Read the manifest beside a plan; raises `RiceError` where it is missing or damaged."""
        file = manifest_file(plan)
        try:
            values = read_json(file)
            for name, part in (("gpu", Gpu), ("agreement", Agreement)):
                values[name] = values[name] and part(**values[name])
            profile = BatchProfile(**values.pop("profile"))
            return cls(**{**values, "profile": profile, "labels": tuple(values["labels"])})
        except FileNotFoundError:
            raise RiceError(f"{plan}: no engine manifest beside it; {rebuild_command('MODEL.onnx', plan)}") from None
        except (ValueError, TypeError, KeyError):
            raise RiceError(f"{file}: damaged; {rebuild_command('MODEL.onnx', plan)}") from None

    def write(self, plan: Path) -> None:
        """Write `<plan>.json`."""
        write_json(manifest_file(plan), asdict(self))


def manifest_file(plan: Path) -> Path:
    """Name the manifest of a plan: `x.plan.json` of `x.plan`."""
    return plan.with_name(plan.name + ".json")


def import_tensorrt(flavour: Flavour = "tensorrt") -> Any:
    """Import the TensorRT module; raises a `RiceError` that says what to install."""
    try:
        return importlib.import_module(flavour)
    except ModuleNotFoundError:
        raise RiceError(f"{flavour}: not installed here (pip install {flavour.replace('_', '-')})") from None
    except ImportError as error:
        raise RiceError(f"{flavour}: cannot be loaded ({error})") from None


def check_manifest(manifest: EngineManifest, plan: Path, version: str, gpu: Gpu) -> None:
    """Reject a plan that TensorRT's `version` or the `gpu` here cannot run: a `RiceError` with every difference."""
    differences = []
    if manifest.tensorrt != version:
        differences.append(f"built by {manifest.flavour} {manifest.tensorrt}, here is {version}")
    if manifest.gpu is not None:
        there, here = (f"{each.name} (compute capability {each.compute_capability})" for each in (manifest.gpu, gpu))
        if there != here:
            differences.append(f"built for {there}, here is {here}")
    if manifest.plan_sha256 != sha256_file(plan):
        differences.append("the manifest belongs to another plan")
    onnx_path = Path(manifest.onnx)
    if onnx_path.is_file() and sha256_file(onnx_path) != manifest.onnx_sha256:
        differences.append(f"{onnx_path} has changed since")
    if differences:
        raise RiceError(f"{plan}: {'; '.join(differences)}; {rebuild_command(manifest.onnx, plan, manifest.flavour)}")


def make_logger(trt: Any) -> Any:
    """Make a TensorRT logger that keeps errors (`.errors`, a list of lines) and says nothing by itself."""

    class Logger(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(message)

    return Logger()


def rebuild_command(onnx: str, plan: Path, flavour: Flavour = "tensorrt") -> str:
    """Give the command that builds a plan again, for an error."""
    choice = "" if flavour == "tensorrt" else f" --flavour {flavour}"
    return f"build it again: rice export tensorrt {onnx} --output {plan}{choice}"
