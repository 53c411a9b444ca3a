"""From pixels to a map: how much each patch counts for the variety that is told.

The map is gradient-weighted attention, collected over the layers for the class token (Chefer, Gur & Wolf 2021,
arXiv:2103.15679). Attention rollout (Abnar & Zuidema 2020, arXiv:2005.00928) is no use here: blacking what it names
changes the model that ships less than blacking patches at random does (`deletion`; tests/test_explain.py features it).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rice_lib.backends.checkpoint import CheckpointPredictor
from rice_lib.backends.onnx import OnnxPredictor
from rice_lib.backends.open import open_predictor
from rice_lib.backends.predictor import Predictor
from rice_lib.common.errors import RiceError
from rice_lib.explain.backward import Inside, OpenedGraph, import_onnx

if TYPE_CHECKING:
    from rice_lib.contract.decision import Decision

BATCH = 4
"""Images looked into at once: a dense ViT-B holds 120 MB of inner values an image."""


@dataclass(frozen=True)
class Explanation:
    """Why N images were told as they were."""

    logits: np.ndarray
    """float32 `[N, classes]`."""
    relevance: np.ndarray
    """Each patch's share in what speaks for the told variety, float32 `[N, side, side]`: sums to 1 (to 0 where nothing
    speaks for it)."""
    seen: np.ndarray
    """Whether the model attended to the patch, bool `[N, side, side]`: a foreground model leaves most of them out."""


class Explainer(ABC):
    """A model that can be looked into; `labels` and `decision` are those of its `Predictor`."""

    def __init__(self, predictor: Predictor) -> None:
        self.labels: tuple[str, ...] = predictor.labels
        self.decision: Decision | None = predictor.decision

    def explain(self, pixels: np.ndarray, classes: np.ndarray | None = None) -> Explanation:
        """Explain images.

        Args:
            pixels: uint8 `[N, 224, 224, 3]`, N at least 1.
            classes: the class number to explain for each, int `[N]`; by default the likeliest.

        Raises:
            RiceError: the engine failed.
        """
        pixels = np.ascontiguousarray(pixels)
        parts = [
            self._explain(pixels[i : i + BATCH], None if classes is None else classes[i : i + BATCH])
            for i in range(0, len(pixels), BATCH)
        ]
        return Explanation(
            np.concatenate([part.logits for part in parts]),
            np.concatenate([part.relevance for part in parts]),
            np.concatenate([part.seen for part in parts]),
        )

    def _explain(self, pixels: np.ndarray, classes: np.ndarray | None) -> Explanation:
        inside, patches = self._look_inside(pixels, classes)
        relevance = class_token_relevance(inside.attention, inside.gradients)
        relevance /= np.maximum(relevance.sum(1, keepdims=True), np.finfo(np.float32).tiny)
        return Explanation(inside.logits, *_on_grid(relevance, inside.chosen, patches))

    @abstractmethod
    def _look_inside(self, pixels: np.ndarray, classes: np.ndarray | None) -> tuple[Inside, int]:
        """Attention and gradients, and the number of patches that an image has."""


class OnnxExplainer(Explainer):
    """An ONNX file, through ONNX Runtime and numpy."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Open the file; raises `RiceError` where it is none of ours, or `onnx` is not installed."""
        import_onnx()
        with OnnxPredictor(path, threads) as predictor:  # which says what is wrong with a file that is not ours
            super().__init__(predictor)
        self._graph = OpenedGraph(path, threads)

    def _look_inside(self, pixels: np.ndarray, classes: np.ndarray | None) -> tuple[Inside, int]:
        return self._graph.run(pixels, classes), self._graph.patches


class CheckpointExplainer(Explainer):
    """A checkpoint, through torch."""

    def __init__(self, directory: Path, threads: int | None = None) -> None:
        """Load the checkpoint; raises `RiceError` where torch is missing or the directory is not one."""
        predictor = CheckpointPredictor(directory, threads)
        super().__init__(predictor)
        self._classifier = predictor.model
        self._classifier.model.set_attn_implementation("eager")  # the fused forms do not hand out their weights

    def _look_inside(self, pixels: np.ndarray, classes: np.ndarray | None) -> tuple[Inside, int]:
        import torch

        model = self._classifier.model
        embeddings = model.vit.embeddings
        patches = embeddings.patch_embeddings.num_patches
        attention: list[torch.Tensor] = []
        hooks = [
            layer.get_submodule("attention").register_forward_hook(
                lambda module, given, result: attention.append(result[1])
            )
            for layer in model.vit.layers
        ]
        try:
            with torch.enable_grad():
                logits = self._classifier(torch.from_numpy(pixels).to(model.device))
                told = logits.argmax(1) if classes is None else torch.from_numpy(classes).to(model.device)
                gradients = torch.autograd.grad(logits.gather(1, told[:, None]).sum(), attention)
        finally:
            for hook in hooks:
                hook.remove()
        inside = Inside(
            logits.detach().cpu().numpy(),
            [a.detach().float().cpu().numpy() for a in attention],
            [g.float().cpu().numpy() for g in gradients],
            _chosen(pixels, getattr(embeddings, "keep", None), pixels.shape[1] // round(patches**0.5)),
        )
        return inside, patches


def open_explainer(spec: str | Path, threads: int | None = None) -> Explainer:
    """Open a model by its name: a checkpoint directory or an `.onnx` file.

    Raises:
        RiceError: no such model, one whose inside cannot be seen, or a library that is not installed.
    """
    text = str(spec)
    if "://" in text or text.endswith((".plan", ".engine")):
        raise RiceError(f"{text}: its inside cannot be seen; give the .onnx or the checkpoint that it was made from")
    path = Path(text)
    if path.is_dir():
        return CheckpointExplainer(path, threads)
    if path.is_file() and path.suffix == ".onnx":
        return OnnxExplainer(path, threads)
    with open_predictor(text, threads):  # says what is wrong
        raise RiceError(f"{text}: its inside cannot be seen; give an .onnx or a checkpoint")


def class_token_relevance(attention: Sequence[np.ndarray], gradients: Sequence[np.ndarray]) -> np.ndarray:
    """Relevance of the other tokens for the class token: float32 `[N, tokens - 1]`, at least 0.

    Equations 5 and 6 of Chefer, Gur & Wolf 2021: in each layer R grows by A R, where A is the mean over the heads of
    what is positive in gradient times attention. Only the class token's row of R is wanted, so it alone is carried,
    from the last layer down.

    Args:
        attention: a layer each, first layer first: `[N, heads, rows, tokens]`; one row (the class token's) is enough
            of the last.
        gradients: of the explained logit, of the same shapes.
    """
    count, _, _, tokens = attention[0].shape
    row = np.zeros((count, 1, tokens), np.float32)
    row[:, :, 0] = 1
    for weights, gradient in zip(reversed(attention), reversed(gradients), strict=True):
        spread = np.maximum(weights * gradient, 0).mean(1)
        row = row + row[:, :, : spread.shape[1]] @ spread
    return row[:, 0, 1:]


def _chosen(pixels: np.ndarray, keep: int | None, patch_size: int) -> np.ndarray | None:
    """The patches that a foreground model attends to, int64 `[N, K]`, in its order; None for a dense one."""
    if keep is None:
        return None
    import torch

    from rice_lib.backends.vit import brightest, normalise

    side = pixels.shape[1] // patch_size
    grid = normalise(torch.from_numpy(pixels)).reshape(len(pixels), 3, side, patch_size, side, patch_size)
    return brightest(grid.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), keep).numpy()


def _on_grid(tokens: np.ndarray, chosen: np.ndarray | None, patches: int) -> tuple[np.ndarray, np.ndarray]:
    """Token values `[N, K]` laid where their patches are, `[N, side, side]`, and which patches there are tokens of."""
    side = round(patches**0.5)
    chosen = np.broadcast_to(np.arange(patches), (len(tokens), patches)) if chosen is None else chosen
    laid, seen = np.zeros((len(tokens), patches), np.float32), np.zeros((len(tokens), patches), bool)
    np.put_along_axis(laid, chosen, tokens, 1)
    np.put_along_axis(seen, chosen, True, 1)
    return laid.reshape(-1, side, side), seen.reshape(-1, side, side)
