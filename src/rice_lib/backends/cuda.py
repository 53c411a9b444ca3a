"""The GPU, through NVIDIA's own bindings, which are small: torch is not needed to run a TensorRT plan."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rice_lib.common.errors import RiceError


@dataclass(frozen=True)
class Gpu:
    """A CUDA device and its driver."""

    name: str
    compute_capability: str
    """As `9.0`."""
    cuda_driver: str
    """The newest CUDA that the driver supports, as `13.0`."""


class CudaError(RiceError):
    """There is no usable GPU, or it failed; the message says which."""


def find_gpu() -> Gpu | None:
    """Find the first CUDA device; None where there is none, no driver, or no `cuda-bindings`."""
    try:
        return Cuda().gpu()
    except CudaError:
        return None


class Cuda:
    """The first device. Every call raises `CudaError` where the runtime reports a fault."""

    def __init__(self) -> None:
        """Take the first device; raises `CudaError` where there is none."""
        try:
            from cuda.bindings import runtime
        except ImportError:
            raise CudaError("a GPU needs cuda-bindings, not installed here (pip install 'rice-lib[gpu]')") from None
        self._cuda = runtime
        try:
            self.call("cudaGetDeviceCount")
        except CudaError as error:
            raise CudaError(f"no usable GPU here ({error})") from None

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime; returns what it gives beside its error code."""
        status, *results = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(status)
            raise CudaError(f"{function}: {text.decode()}", status=1)
        return results[0] if len(results) == 1 else tuple(results)

    def gpu(self) -> Gpu:
        """Read what the device is."""
        properties = self.call("cudaGetDeviceProperties", 0)
        version = self.call("cudaDriverGetVersion")
        return Gpu(
            name=properties.name.split(b"\0")[0].decode(),
            compute_capability=f"{properties.major}.{properties.minor}",
            cuda_driver=f"{version // 1000}.{version % 1000 // 10}",
        )

    def memory_used(self) -> int:
        """Read the bytes of the device's memory in use, by every process."""
        free, total = self.call("cudaMemGetInfo")
        return int(total) - int(free)

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        """Copy a C-contiguous array to the device, in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        """Copy from the device into a C-contiguous array; returns when all of the stream's work is done."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)
        self.call("cudaStreamSynchronize", stream)
