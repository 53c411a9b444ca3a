"""Running a TensorRT plan: the predictor over `rice_lib.export.tensorrt`'s plans.

The calls are those that TensorRT 10 and 11 have in common (tensors by name, `execute_async_v3`); device
memory is taken through `rice_lib.backends.cuda`, once, for the plan's largest batch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rice_lib.backends.cuda import Cuda
from rice_lib.backends.predictor import Predictor, parse_decision
from rice_lib.export.tensorrt import EngineManifest, check_manifest, import_tensorrt, make_logger, manifest_file
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import IMAGE_SIZE


class TensorRTPredictor(Predictor):
    """A plan on the GPU that built it. Not for several threads at once."""

    def __init__(self, plan: Path) -> None:
        """Check the manifest and load the plan.

        Raises:
            RiceError: no manifest, a mismatch with this machine, no TensorRT, no GPU, or a damaged plan.
        """
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
        self._input, self._output = modes[trt.TensorIOMode.INPUT], modes[trt.TensorIOMode.OUTPUT]
        self.labels, self.max_batch = manifest.labels, manifest.profile.max
        self.decision = parse_decision(manifest.decision, str(manifest_file(plan)), manifest.labels)
        self._min_batch = manifest.profile.min
        self.name = f"{manifest.flavour}/GPU"
        self._stream = self._cuda.stream()
        self._images = self._cuda.allocate(self.max_batch * IMAGE_SIZE * IMAGE_SIZE * 3)
        self._logits = self._cuda.allocate(self.max_batch * len(self.labels) * 4)
        self._context.set_tensor_address(self._input, self._images)
        self._context.set_tensor_address(self._output, self._logits)

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        count = len(pixels)
        if count < self._min_batch:  # the last, short batch of a plan that takes no single image
            pixels = np.concatenate([pixels, np.zeros((self._min_batch - count, *pixels.shape[1:]), np.uint8)])
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
            self._cuda.free(self._images)
            self._cuda.free(self._logits)
            self._cuda.destroy(self._stream)
            self._stream = None
