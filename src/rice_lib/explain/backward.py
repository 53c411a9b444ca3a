"""Gradients of an ONNX graph's logits with respect to its attention, in numpy, without torch.

The file is opened with its inner values as further outputs; one run of ONNX Runtime gives them, and the chain rule is
followed back from the logits over the few operators of a transformer's encoder. Attention is found by its form:
a Softmax over `[batch, heads, rows, 1 + patches]` between two matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rice_lib.backends.onnx import import_onnxruntime
from rice_lib.common.errors import RiceError

FLOATS = ("FLOAT", "FLOAT16")
THROUGH = ("Mul", "Div", "Add", "Where", "Cast", "Identity", "Dropout")
"""What may stand between an attention's matrix products and its Softmax."""


@dataclass(frozen=True)
class Inside:
    """What one run showed, of N images."""

    logits: np.ndarray
    """float32 `[N, classes]`."""
    attention: list[np.ndarray]
    """A layer each, first layer first: float32 `[N, heads, rows, tokens]`; one row where only the class token's is
    computed."""
    gradients: list[np.ndarray]
    """Of the explained logit with respect to each, of the same shapes."""
    chosen: np.ndarray | None
    """Numbers of the patches behind the tokens after the class token, int64 `[N, K]`; None: all, in reading order."""


class OpenedGraph:
    """An ONNX file whose inner values can be read, and followed backwards."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        """Load the file.

        Raises:
            RiceError: `onnx` is not installed, or the file is not written as this project's exports are.
        """
        onnx = import_onnx()
        try:
            model = onnx.load(path)
            if not model.graph.value_info:
                model = onnx.shape_inference.infer_shapes(model)
        except Exception as error:  # protobuf's errors have no common class
            raise RiceError(f"{path}: not an ONNX file ({next(iter(str(error).splitlines()), 'damaged')})") from None
        self._path = path
        graph = model.graph
        self._input, self._logits = graph.input[0].name, graph.output[0].name
        self._nodes = [_Node.of(node, onnx) for node in graph.node]
        self._maker = {name: node for node in self._nodes for name in node.outputs}
        self._shapes = {
            value.name: tuple(
                d.dim_value if d.HasField("dim_value") else None for d in value.type.tensor_type.shape.dim
            )
            for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._constants = {part.name: onnx.numpy_helper.to_array(part) for part in graph.initializer}
        self.attention = self._find_attention()
        tokens = self._shapes[self.attention[0]][-1]
        assert tokens is not None
        self._chosen, self.patches = self._find_choice(tokens - 1)
        self._path_back, wanted = self._follow()
        self._wanted = list(dict.fromkeys([*self.attention, *wanted, *([self._chosen] if self._chosen else [])]))
        kept = {value.name for value in graph.output}
        graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in self._wanted if name not in kept)
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def run(self, pixels: np.ndarray, classes: np.ndarray | None = None) -> Inside:
        """Look inside the model at uint8 `[N, 224, 224, 3]`.

        Args:
            pixels: the images.
            classes: int `[N]`, the logit of each image to follow back; by default the largest.
        """
        names = [self._logits, *self._wanted]
        try:
            values = dict(zip(names, self._session.run(names, {self._input: pixels}), strict=True))
        except Exception as error:
            raise RiceError(f"{self._path}: ONNX Runtime failed on it ({str(error).splitlines()[0]})", 1) from error
        logits = values[self._logits]
        classes = logits.argmax(1) if classes is None else classes
        seed = np.zeros_like(logits)
        seed[np.arange(len(logits)), classes] = 1
        gradients = self._gradients(seed, {**self._constants, **values})
        return Inside(
            logits,
            [values[name].astype(np.float32) for name in self.attention],
            [gradients[name] for name in self.attention],
            values[self._chosen] if self._chosen else None,
        )

    def _gradients(self, seed: np.ndarray, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The chain rule, from the logits' gradient to that of every value on the way to the attention."""
        found: dict[str, np.ndarray] = {self._logits: seed}
        for node in reversed(self._path_back):
            gradient = found.get(node.outputs[0])
            if gradient is None:
                continue
            if node.outputs[0] not in self.attention:  # those are what is asked for; of the others only one is held
                del found[node.outputs[0]]
            shapes = [tuple(len(seed) if d is None else d for d in self._shapes.get(name, ())) for name in node.inputs]
            for number, name in enumerate(node.inputs):
                if name in self._downstream:
                    part = BACKWARD[node.kind](node, number, gradient, values, shapes[number])
                    found[name] = found[name] + part if name in found else part
        return found

    def _find_attention(self) -> list[str]:
        found = []
        for node in self._nodes:
            shape = self._shapes.get(node.outputs[0], ())
            if node.kind == "Softmax" and len(shape) == 4 and node.attributes.get("axis", -1) in (-1, 3):
                rows, tokens = shape[2:]
                read = any(n.kind == "MatMul" and self._source(n.inputs[0]) is node for n in self._nodes)
                scored = self._source(node.inputs[0])
                if read and scored is not None and scored.kind == "MatMul" and rows in (1, tokens):
                    found.append(node.outputs[0])
        tokens = {self._shapes[name][-1] for name in found}
        if len(tokens) != 1 or None in tokens:
            raise RiceError(
                f"{self._path}: no attention that can be read inside; export the checkpoint with "
                "python -m rice_lib export, or name the checkpoint itself"
            )
        return found

    def _source(self, name: str) -> _Node | None:
        """The node behind a value, past what only scales, masks or casts it."""
        node = self._maker.get(name)
        while node is not None and node.kind in THROUGH:
            # a mask or a scale hangs at the other input, and comes from no matrix product
            sources = [self._maker[name] for name in node.inputs if name in self._maker]
            node = next((s for s in sources if s.kind in (*THROUGH, "MatMul", "Softmax") and s.kind != "Where"), None)
        return node

    def _find_choice(self, kept: int) -> tuple[str | None, int]:
        """The value that holds the chosen patches' numbers (None: there is no choice), and how many patches there are.

        Raises:
            RiceError: neither a choice of as many patches as there are tokens, nor a square of them.
        """
        for node in self._nodes:
            if node.kind == "TopK" and self._shapes.get(node.outputs[1], ())[-1:] == (kept,):
                patches = self._shapes[node.inputs[0]][-1]
                assert patches is not None
                return node.outputs[1], patches
        if round(kept**0.5) ** 2 != kept:
            raise RiceError(
                f"{self._path}: its {kept} tokens are no square of patches, and nothing says which they are"
            )
        return None, kept

    def _follow(self) -> tuple[list[_Node], list[str]]:
        """The nodes between the attention and the logits, and the values that their derivatives need."""
        self._downstream = set(self.attention)
        between: list[_Node] = []
        for node in self._nodes:
            if any(name in self._downstream for name in node.inputs):
                between.append(node)
                self._downstream.update(node.outputs)
        needed: list[str] = []
        back: list[_Node] = []
        reached = {self._logits}
        for node in reversed(between):
            if node.outputs[0] not in reached:
                continue
            if node.kind not in BACKWARD:
                raise RiceError(f"{self._path}: its operator {node.kind} cannot be followed back; name the checkpoint")
            back.append(node)
            reached.update(node.inputs)
            needed += node.needed(self._downstream)
        return back[::-1], [name for name in needed if name not in self._constants]


def import_onnx() -> Any:
    """The `onnx` module, or a `RiceError` that says what to install."""
    try:
        import onnx
    except ImportError:
        raise RiceError(
            "--explain reads the inside of an ONNX file with the package onnx, not installed here: "
            "pip install 'rice-lib[explain]'"
        ) from None
    return onnx


@dataclass(frozen=True, eq=False)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @classmethod
    def of(cls, node: Any, onnx: Any) -> _Node:
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        return cls(node.op_type, tuple(node.input), tuple(node.output), attributes)

    def needed(self, moving: set[str]) -> list[str]:
        """Names of the values, constants among them, that `BACKWARD` reads where the `moving` inputs have gradients."""
        if self.kind in ("MatMul", "Mul", "Div"):
            a, b = self.inputs
            return [*([b] if a in moving else []), *([a] if b in moving else [])]
        if self.kind in ("LayerNormalization", "Gelu", "Erf"):
            return [self.inputs[0]]
        return [self.outputs[0]] if self.kind == "Softmax" else []


Values = Mapping[str, np.ndarray]
Shape = tuple[int, ...]


def _value(values: Values, name: str) -> np.ndarray:
    return values[name].astype(np.float32, copy=False)


def _summed(gradient: np.ndarray, shape: Shape) -> np.ndarray:
    """The gradient of a value that was broadcast to the gradient's shape."""
    gradient = gradient.sum(axis=tuple(range(gradient.ndim - len(shape))))
    return gradient.sum(axis=tuple(i for i, d in enumerate(shape) if d == 1 < gradient.shape[i]), keepdims=True)


def _matmul(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    other = _value(values, node.inputs[1 - number]).swapaxes(-1, -2)
    return _summed(other @ gradient if number else gradient @ other, shape)


def _gemm(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    weight = _value(values, node.inputs[1])
    return node.attributes.get("alpha", 1.0) * gradient @ (weight if node.attributes.get("transB") else weight.T)


def _multiply(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    return _summed(gradient * _value(values, node.inputs[1 - number]), shape)


def _divide(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    return _summed(gradient / _value(values, node.inputs[1]), shape)  # by a constant: nothing else occurs


def _layer_norm(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    x = _value(values, node.inputs[0])
    deviation = np.sqrt(x.var(-1, keepdims=True) + node.attributes.get("epsilon", 1e-5))
    normal = (x - x.mean(-1, keepdims=True)) / deviation
    gradient = gradient * _value(values, node.inputs[1])
    along = normal * (gradient * normal).mean(-1, keepdims=True)
    return (gradient - gradient.mean(-1, keepdims=True) - along) / deviation


def _softmax(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    y = _value(values, node.outputs[0])
    return y * (gradient - (gradient * y).sum(-1, keepdims=True))


def _gelu(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    x = _value(values, node.inputs[0])
    return gradient * (0.5 + 0.5 * erf(x / np.sqrt(2)) + x * np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi))


def _erf(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    return gradient * 2 / np.sqrt(np.pi) * np.exp(-(_value(values, node.inputs[0]) ** 2))


def _transpose(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    return gradient.transpose(np.argsort(node.attributes["perm"]))


def _gather(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    whole = np.zeros(shape, np.float32)
    # one place, or several different ones: nothing gathers a token twice behind the attention
    before: list[slice | np.ndarray] = [slice(None)] * node.attributes.get("axis", 0)
    whole[(*before, values[node.inputs[1]])] = gradient
    return whole


def _slice(node: _Node, number: int, gradient: np.ndarray, values: Values, shape: Shape) -> np.ndarray:
    index = [slice(None)] * len(shape)
    starts, ends, axes, *steps = (values[name] for name in node.inputs[1:])
    for start, end, axis, step in zip(starts, ends, axes, steps[0] if steps else np.ones_like(axes), strict=True):
        index[axis] = slice(start, end, step)
    whole = np.zeros(shape, np.float32)
    whole[tuple(index)] = gradient
    return whole


BACKWARD: dict[str, Callable[[_Node, int, np.ndarray, Values, Shape], np.ndarray]] = {
    "Add": lambda node, number, gradient, values, shape: _summed(gradient, shape),
    "Cast": lambda node, number, gradient, values, shape: gradient,
    "Div": _divide,
    "Erf": _erf,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "Mul": _multiply,
    "Reshape": lambda node, number, gradient, values, shape: gradient.reshape(shape),
    "Slice": _slice,
    "Softmax": _softmax,
    "Transpose": _transpose,
}
"""Operator to the gradient of its input `number` (of that shape), given the output's."""


def erf(x: np.ndarray) -> np.ndarray:
    """The error function, to 1.5e-7 (Abramowitz & Stegun 1964, formula 7.1.26); numpy has none."""
    t = 1 / (1 + 0.3275911 * np.abs(x))
    series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))))
    return np.sign(x) * (1 - series * np.exp(-(x**2)))
