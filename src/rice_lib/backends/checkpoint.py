"""A model as a checkpoint directory, run by torch. torch is imported when a model is opened."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rice_lib.backends.predictor import MAX_BATCH, Predictor, parse_decision
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import FILE, Decision


class CheckpointPredictor(Predictor):
    """Torch: the checkpoint itself, on the GPU where there is one."""

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        """Load the checkpoint; raises `RiceError` where torch is missing or the directory is not a checkpoint."""
        try:
            import torch

            from rice_lib.backends.vit import load_pixel_classifier
        except ImportError:
            why = "a checkpoint needs torch, not installed here (pip install 'rice-lib[train]')"
            raise RiceError(f"{directory}: {why}") from None
        if threads is not None:
            torch.set_num_threads(threads)
        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = load_pixel_classifier(directory).to(self._device)
        self.labels = tuple(self.model.labels)
        self.decision = read_decision(directory, self.labels)
        self.name, self.max_batch = f"torch/{self._device.type.upper()}", MAX_BATCH

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        with self._torch.inference_mode():
            return self.model(self._torch.from_numpy(pixels).to(self._device)).cpu().numpy()


def read_decision(checkpoint: Path, labels: Sequence[str]) -> Decision:
    """Read the decision beside a checkpoint's weights, as `parse_decision`."""
    file = checkpoint / FILE
    text = file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None
    return parse_decision(text, str(file), labels)
