"""What the serving tests share: a small ONNX model of the project's shape, a checkout to work in, a stand-in server."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from rice_lib.data.synthetic import VARIETIES
from rice_lib.serving.environment import MissingEnvironmentError, ServingEnvironment
from rice_lib.serving.server import RunningServer
from support.programs import write_program

ROOT = Path(__file__).resolve().parents[2]


def _why_no_server() -> str:
    try:
        ServingEnvironment.find(ROOT)
    except MissingEnvironmentError as missing:  # one that is there and broken is no excuse
        return str(missing)
    return ""


NO_SERVER = _why_no_server()
HAS_SERVER = not NO_SERVER


def write_onnx(path: Path, labels: tuple[str, ...] = VARIETIES) -> Path:
    """A random projection of 8 x 8 pixel means: every pixel of every image moves the logits."""
    weights = np.random.default_rng(0).normal(size=(3 * 28 * 28, len(labels))).astype(np.float32) / 50
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["means"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["means"], ["vector"]),
        helper.make_node("MatMul", ["vector", "weights"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "projection",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", 224, 224, 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", len(labels)])],
        [numpy_helper.from_array(weights, "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"labels": json.dumps(labels)})
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def make_checkout(folder: Path, environment: bool) -> Path:
    """A root for `RICE_ROOT` with the tiny profile and an exported model."""
    (folder / "params").mkdir(parents=True)
    (folder / "notebooks").mkdir()
    (folder / "params" / "tiny.yaml").write_bytes((ROOT / "params" / "tiny.yaml").read_bytes())
    write_onnx(folder / "models" / "tiny" / "onnx" / "model.onnx")
    if environment:
        (folder / ".venv-serve").symlink_to(ROOT / ".venv-serve")
    return folder


STAND_IN = {
    "ready": """
import http.server, signal, sys
port = next(int(a.split("=")[1]) for a in sys.argv if a.startswith("--http-port="))
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write("\\n".join(sys.argv).encode())
    def log_message(self, *args):
        pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
http.server.HTTPServer(("127.0.0.1", port), Handler).serve_forever()
""",
    "hangs": "import time\ntime.sleep(600)\n",
    "stubborn": "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)\n",
    "dies": """
import sys
print('E1122 19:34:37.33 1 model_lifecycle.cc:642] "failed to load \\'rice\\' version 1: Internal: damaged model"')
print("error: creating server: Internal - failed to load all models")
sys.exit(1)
""",
}
"""Programs in the server's place, for what a real one does too rarely to be tested."""


def stand_in(folder: Path, behaviour: str) -> ServingEnvironment:
    """A serving environment whose `tritonserver` is one of `STAND_IN`."""
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    environment = ServingEnvironment(folder, folder / "site", version, folder / "lib")
    triton = folder / "site" / "pytriton" / "tritonserver"
    for file in (
        "backends/python/libtriton_python.so",
        "backends/python/triton_python_backend_utils.py",
        f"python_backend_stubs/{version}/triton_python_backend_stub",
    ):
        (triton / file).parent.mkdir(parents=True, exist_ok=True)
        (triton / file).touch()
    environment.binary.parent.mkdir()
    write_program(environment.binary, STAND_IN[behaviour])
    environment.interpreter.parent.mkdir()
    os.symlink(sys.executable, environment.interpreter)
    return environment


def wait_until_ready(server: RunningServer, seconds: float) -> None:
    """Wait for a server that is started again."""
    until = time.monotonic() + seconds
    while not server.is_ready():
        assert time.monotonic() < until
        time.sleep(0.1)
