"""Export a checkpoint to one ONNX file that needs nothing beside it, and prove that both give the same logits.

`quantise` makes an 8-bit form of such a file; `rice_lib.export.forms` says whether it keeps the labels.

The graph takes bytes (`images`, uint8 `[batch, 224, 224, 3]`) and gives `logits` (float32 `[batch, labels]`);
the normalisation and, in a foreground model, the choice of patches are inside it. Labels and provenance
travel in the file's metadata. The operators are standard ones: ONNX Runtime, TensorRT and Triton take the same file.
"""

from __future__ import annotations

import copy
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import torch
from torch import nn

from rice_lib import __version__
from rice_lib.backends.onnx import OnnxPredictor, import_onnxruntime
from rice_lib.backends.vit import PixelClassifier
from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_path
from rice_lib.contract.decision import KEY, Decision
from rice_lib.contract.decode import IMAGE_SIZE

Precision = Literal["float32", "float16"]
OPSETS = range(18, min(25, onnx.defs.onnx_opset_version()) + 1)
"""Operator sets that torch's exporter and its converter write. From 20 on, GELU is one, which ONNX Runtime fuses."""

FILE_NAMES: dict[Precision, str] = {"float32": "model.onnx", "float16": "model_fp16.onnx"}
"""What notebook 05 calls each form that torch exports, below `paths.onnx`."""

INT8_FILE = "model_int8.onnx"
"""The form that `quantise` makes of the first."""


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
        precision: `float16` computes the encoder and the head in half precision, typed by the graph's own nodes, as
            TensorRT 11 wants it; input and output keep their types.
        labels: class names in the order of the logits.
        metadata: provenance, kept as JSON under the key `provenance`.
        opset: ONNX operator set, one of `OPSETS`.
        decision: how the logits are read, kept as JSON under the key `decision`; None where none was measured.

    Raises:
        RiceError: the labels do not fit, the operator set is not written, or ONNX Runtime does not take the file.
    """
    if opset not in OPSETS:
        raise RiceError(f"--opset {opset}: the sets {OPSETS[0]} to {OPSETS[-1]} are written; take one of these, as 20")
    if len(labels) != classifier.model.config.num_labels:
        raise RiceError(f"{len(labels)} labels for a model of {classifier.model.config.num_labels} classes")
    proto = trace(_prepared(classifier, precision), opset)
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
        OnnxPredictor(temporary).close()  # checks the interface, too: a torch that fixes the batch size is found here
    return path


def trace(model: nn.Module, opset: int = 20) -> onnx.ModelProto:
    """Trace a network of bytes, uint8 `[batch, 224, 224, 3]`, to logits: its graph and weights, without metadata."""
    # traced with two images: with one, the exporter would take the batch dimension for a constant
    sample = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8, device=next(model.parameters()).device)
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(action="ignore"):  # the exporter's remarks about its own future
        program = torch.onnx.export(
            model,
            (sample,),
            dynamo=True,
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            opset_version=opset,
            external_data=False,
            verbose=False,
        )
    assert program is not None  # it is None only for torch's earlier exporter
    proto = program.model_proto  # each time it is asked for it is another
    _drop_traces(proto)
    return proto


def quantise(path: Path, target: Path, pixels: np.ndarray) -> Path:
    """Write the 8-bit form of a float32 export (atomically): static, QDQ, weights per channel.

    Products of activations with weights alone are quantised. The alignment before them stays in float32: its moments
    are sums of thousands of values, and 256 steps would move the frame by pixels. So do the attention's own products,
    and the head, which are small and decide. Activations are unsigned, as x86's VNNI wants them.

    Args:
        path: the float32 file.
        target: the file to write.
        pixels: training images to calibrate on, uint8 `[N, 224, 224, 3]`; a few hundred are enough.

    Raises:
        RiceError: ONNX Runtime is not installed, or does not take either file.
    """
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    class Reader(CalibrationDataReader):
        parts = iter(np.array_split(pixels, -(-len(pixels) // 16)))

        def get_next(self) -> Any:
            return next(({"images": part} for part in self.parts), None)

    graph = onnx.load(path).graph
    # equal weights take a mean, which belongs to the alignment
    weights = {each.name for each in graph.initializer if len(np.unique(onnx.numpy_helper.to_array(each))) > 1}
    chosen = [node.name for node in graph.node if node.op_type in ("Conv", "MatMul") and node.input[1] in weights]
    logging.disable(logging.WARNING)  # it advises to optimise the graph first, for which there is no need
    try:
        with atomic_path(target) as temporary:
            quantize_static(
                path, temporary, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, nodes_to_quantize=chosen,
                activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
            )  # fmt: skip
            proto = onnx.load(temporary)
            carried = {entry.key: entry.value for entry in proto.metadata_props}
            onnx.helper.set_model_props(proto, {**carried, "precision": "int8"})
            onnx.save(proto, temporary)
            OnnxPredictor(temporary).close()
    finally:
        logging.disable(logging.NOTSET)
    return target


def check_parity(classifier: PixelClassifier, path: Path, pixels: np.ndarray, tolerance: float) -> list[Parity]:
    """Compare an exported file under ONNX Runtime with the model in torch, at batches of 1, 3 and all N images.

    Args:
        classifier: the model that was exported to `path`.
        path: the ONNX file.
        pixels: uint8 `[N, 224, 224, 3]`.
        tolerance: largest allowed absolute difference of a logit.

    Raises:
        RiceError: a difference above the tolerance, or a logit that is not finite.
    """
    found, device = [], next(classifier.parameters()).device
    with OnnxPredictor(path) as predictor, torch.inference_mode():
        for batch in sorted({1, min(3, len(pixels)), len(pixels)}):
            ours = classifier(torch.from_numpy(pixels[:batch]).to(device)).cpu().numpy()
            theirs = predictor.logits(pixels[:batch])
            difference = float(np.abs(ours - theirs).max())
            if not difference <= tolerance:  # also where it is NaN
                what = f"a logit differs from torch by {difference:.2g} at batch {batch}"
                raise RiceError(f"{path}: {what}, more than the tolerance of {tolerance:.2g}", status=1)
            changed = int((ours.argmax(1) != theirs.argmax(1)).sum())
            found.append(Parity(batch, difference, changed))
    return found


def _prepared(classifier: PixelClassifier, precision: Precision) -> nn.Module:
    """Copy the model in the form that the exporter wants.

    Attention is written out (MatMul, Softmax, MatMul): torch's fused one leaves in each layer a check for rows that are
    fully masked, which cannot occur here, costs about 5 % in ONNX Runtime and hides the pattern from TensorRT.

    In the half form the embeddings stay in float32: they are a few per cent of the work, and half precision does not
    hold the differences by which the model chooses among near-black patches. So does a head that reads features.
    """
    model = copy.deepcopy(classifier).eval()
    model.model.set_attn_implementation("eager")
    if precision == "float16":
        vit, embeddings, head = model.model.vit, model.model.vit.embeddings, copy.deepcopy(model.model.classifier)
        vit.add_module("embeddings", nn.Identity())
        model.model.half()
        vit.add_module("embeddings", embeddings)
        embeddings.register_forward_hook(lambda module, arguments, result: result.half())
        if model.model.config.grain_features:
            model.model.add_module("classifier", head)
    # TensorRT does nothing with an input of bytes but cast it: the cast comes first
    model.register_forward_pre_hook(lambda module, arguments: (arguments[0].float(),))
    return model


def _drop_traces(proto: onnx.ModelProto) -> None:
    """Remove the exporter's notes (source lines, the machine's folders): half a megabyte that nobody reads."""
    graph = proto.graph
    for part in (*graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer, graph):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    proto.ClearField("metadata_props")
