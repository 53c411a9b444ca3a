"""The GPU, through NVIDIA's own bindings: what it is, and the few calls that running a TensorRT plan takes.

`cuda-bindings` is small (torch brings it too); torch itself is not needed to serve a plan.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
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

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


class CudaError(RiceError):
    """There is no usable GPU, or it failed; the message says which."""


def find_gpu() -> Gpu | None:
    """The first CUDA device; None where there is none, no driver, or no `cuda-bindings`."""
    try:
        return Cuda().gpu()
    except CudaError:
        return None


class Cuda:
    """One device with one stream. Every call raises `CudaError` where the runtime reports a fault."""

    def __init__(self) -> None:
        """Take the first device; raises `CudaError` where there is none."""
        try:
            from cuda.bindings import runtime
        except ImportError:
            raise CudaError("a GPU needs cuda-bindings, not installed here (pip install 'rice-lib[gpu]')") from None
        self._cuda = runtime
        try:
            count = self.call("cudaGetDeviceCount")
        except CudaError as error:
            raise CudaError(f"no usable GPU here ({error})") from None
        if not count:
            raise CudaError("no GPU here")

    def call(self, function: str, *arguments: Any) -> Any:
        """Call a function of the CUDA runtime; returns what it gives beside its error code."""
        status, *results = getattr(self._cuda, function)(*arguments)
        if status != self._cuda.cudaError_t.cudaSuccess:
            _, text = self._cuda.cudaGetErrorString(status)
            raise CudaError(f"{function}: {text.decode()}", status=1)
        return results[0] if results else None

    def gpu(self) -> Gpu:
        """What the device is."""
        properties = self.call("cudaGetDeviceProperties", 0)
        version = self.call("cudaDriverGetVersion")
        return Gpu(
            name=properties.name.split(b"\0")[0].decode(),
            compute_capability=f"{properties.major}.{properties.minor}",
            cuda_driver=f"{version // 1000}.{version % 1000 // 10}",
        )

    def memory_used(self) -> int:
        """Bytes of the device's memory in use, by every process."""
        status, free, total = self._cuda.cudaMemGetInfo()
        if status != self._cuda.cudaError_t.cudaSuccess:
            raise CudaError("cudaMemGetInfo failed", status=1)
        return int(total) - int(free)

    def stream(self) -> Any:
        """A new stream."""
        return self.call("cudaStreamCreate")

    def allocate(self, size: int) -> int:
        """Address of `size` new bytes on the device."""
        return int(self.call("cudaMalloc", size))

    def free(self, address: int) -> None:
        """Give device memory back."""
        self.call("cudaFree", address)

    def upload(self, address: int, array: np.ndarray, stream: Any) -> None:
        """Copy a C-contiguous array to the device, in the stream's order."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self.call("cudaMemcpyAsync", address, array.ctypes.data, array.nbytes, kind, stream)

    def download(self, array: np.ndarray, address: int, stream: Any) -> None:
        """Copy from the device into a C-contiguous array; returns when all of the stream's work is done."""
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self.call("cudaMemcpyAsync", array.ctypes.data, address, array.nbytes, kind, stream)
        self.call("cudaStreamSynchronize", stream)

    def destroy(self, stream: Any) -> None:
        """Give a stream back."""
        self.call("cudaStreamDestroy", stream)
