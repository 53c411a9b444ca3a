"""Export a checkpoint to one ONNX file that needs nothing beside it, and prove that both give the same logits.

The graph takes bytes (`images`, uint8 `[batch, 224, 224, 3]`) and gives `logits` (float32 `[batch, labels]`);
the normalisation and, in a foreground model, the choice of patches are inside it. Labels and provenance
travel in the file's metadata. Only standard operators are used, so that the same file feeds ONNX Runtime,
TensorRT and Triton.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from torch import nn

from rice_lib import __version__
from rice_lib.backends.onnx import OnnxPredictor
from rice_lib.backends.vit import PixelClassifier
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.contract.decision import KEY, Decision
from rice_lib.contract.decode import IMAGE_SIZE

Precision = Literal["float32", "float16"]
INPUT, OUTPUT, BATCH = "images", "logits", "batch"

FILE_NAMES: dict[Precision, str] = {"float32": "model.onnx", "float16": "model_fp16.onnx"}
"""What notebook 05 calls each form, below `paths.onnx`."""


@dataclass(frozen=True)
class Parity:
    """Torch and ONNX on the same images in one batch."""

    batch: int
    max_abs: float
    """Largest absolute difference of a logit."""
    labels_changed: int
    """Images with another label; where there are any, their two highest logits lay within `2 * max_abs`."""


def export(
    classifier: PixelClassifier,
    path: Path,
    *,
    precision: Precision = "float32",
    labels: Sequence[str],
    metadata: Mapping[str, Any] | None = None,
    opset: int = 20,
    decision: Decision | None = None,
) -> Path:
    """Write a model as ONNX (atomically).

    Args:
        classifier: the model; it is not changed.
        path: the file to write.
        precision: `float16` computes the encoder and the head in half precision; input and output keep their types.
            Typed by its own nodes, as strongly typed TensorRT networks (the only ones since TensorRT 11) want it.
        labels: class names in the order of the logits.
        metadata: provenance, kept as JSON under the key `provenance`.
        opset: ONNX operator set. From 20 on, GELU is one operator, which ONNX Runtime fuses.
        decision: how the logits are read, kept as JSON under the key `decision`; None where none was measured.

    Raises:
        RiceError: the labels do not fit, the exporter fixed the batch size, or it does not know the operator set.
    """
    if len(labels) != classifier.model.config.num_labels:
        raise RiceError(f"{len(labels)} labels for a model of {classifier.model.config.num_labels} classes")
    model = _prepared(classifier, precision)
    # traced with two images: with one, the exporter would take the batch dimension for a constant
    sample = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8, device=next(model.parameters()).device)
    with _quiet():
        program = torch.onnx.export(
            model,
            (sample,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=({0: torch.export.Dim(BATCH)},),
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # it is None only for torch's earlier exporter
    proto = program.model_proto
    _drop_traces(proto)
    written = next(entry.version for entry in proto.opset_import if not entry.domain)
    if written != opset:
        raise RiceError(f"--opset {opset}: this torch writes operator set {written} in its place; take that, or 20")
    _check_interface(proto, len(labels))
    about = {"format": "rice_lib", "version": __version__, "torch": str(torch.__version__), "opset": opset}
    onnx.helper.set_model_props(
        proto,
        {
            "labels": json.dumps(list(labels)),
            "precision": precision,
            "provenance": json.dumps({**about, **(metadata or {})}, sort_keys=True),
            **({} if decision is None else {KEY: decision.to_json()}),
        },
    )
    onnx.checker.check_model(proto)
    with atomic_path(path) as temporary:
        onnx.save(proto, temporary)
    return path


def check_parity(
    classifier: PixelClassifier, path: Path, pixels: np.ndarray, tolerance: float, batches: Sequence[int] = ()
) -> list[Parity]:
    """Compare an exported file under ONNX Runtime with the model in torch, on real images.

    Args:
        classifier: the model that was exported.
        path: the ONNX file.
        pixels: uint8 `[N, 224, 224, 3]`.
        tolerance: largest allowed absolute difference of a logit.
        batches: batch sizes to try, each on the first images; by default 1, 3 and N.

    Raises:
        RiceError: a difference above the tolerance, or a logit that is not finite.
    """
    found = []
    with OnnxPredictor(path) as predictor, torch.inference_mode():
        for batch in batches or sorted({1, min(3, len(pixels)), len(pixels)}):
            device = next(classifier.parameters()).device
            ours = classifier(torch.from_numpy(pixels[:batch]).to(device)).cpu().numpy()
            theirs = predictor.logits(pixels[:batch])
            difference = float(np.abs(ours - theirs).max())
            if not difference <= tolerance:  # also where it is NaN
                raise RiceError(
                    f"{path}: a logit differs from torch by {difference:.2g} at batch {batch}, more than the "
                    f"tolerance of {tolerance:.2g}",
                    status=1,
                )
            changed = int((ours.argmax(1) != theirs.argmax(1)).sum())
            found.append(Parity(batch, difference, changed))
    return found


def operator_counts(path: Path) -> dict[str, int]:
    """Count each operator in a file's graph."""
    return dict(sorted(Counter(node.op_type for node in onnx.load(path).graph.node).items()))


class _CastFirst(nn.Module):
    """The model behind a cast, which is all that TensorRT does with an input of bytes."""

    def __init__(self, classifier: PixelClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(images.float())


def _prepared(classifier: PixelClassifier, precision: Precision) -> nn.Module:
    """A copy ready for the exporter.

    Attention is written out (MatMul, Softmax, MatMul): torch's fused one leaves in each layer a check for rows that are
    fully masked, which cannot occur here, costs about 5 % in ONNX Runtime and hides the pattern from TensorRT.

    In the half form the embeddings stay in float32: they are a few per cent of the work, and half precision does not
    hold the differences by which the model chooses among near-black patches.
    """
    model = copy.deepcopy(classifier).eval()
    model.model.set_attn_implementation("eager")
    if precision == "float16":
        vit = model.model.vit
        embeddings = vit.embeddings
        vit.add_module("embeddings", nn.Identity())
        model.model.half()
        vit.add_module("embeddings", embeddings)
        embeddings.register_forward_hook(lambda module, arguments, result: result.half())
    return _CastFirst(model)


def _drop_traces(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes (source lines, the machine's folders): half a megabyte that nobody reads."""
    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    proto.ClearField("metadata_props")


def _check_interface(proto: onnx.ModelProto, classes: int) -> None:
    """Check the interface that the module's first lines describe; raises `RiceError`."""
    (image,), (logits,) = proto.graph.input, proto.graph.output
    shapes = {
        value.name: [d.dim_param or d.dim_value for d in value.type.tensor_type.shape.dim] for value in (image, logits)
    }
    wanted = {INPUT: [BATCH, IMAGE_SIZE, IMAGE_SIZE, 3], OUTPUT: [BATCH, classes]}
    types = (image.type.tensor_type.elem_type, logits.type.tensor_type.elem_type)
    if shapes != wanted or types != (onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT):
        raise RiceError(
            f"the exporter gave {shapes} in place of {wanted}: this torch and onnxscript do not fit together"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's remarks about its own future off the terminal; errors are still raised."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
