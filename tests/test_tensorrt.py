"""Plans really built (by TensorRT for RTX, which needs no GPU), their manifests, and the calls that run one."""

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from model_support import grains, tiny_onnx

from rice_lib.deploy import tensorrt, tensorrt_runtime
from rice_lib.deploy.cuda import Gpu, find_gpu
from rice_lib.deploy.predictors import open_predictor
from rice_lib.deploy.tensorrt import (
    BatchProfile,
    EngineManifest,
    build_engine,
    check_manifest,
    import_tensorrt,
    manifest_file,
)
from rice_lib.errors import RiceError
from rice_lib.export import main
from rice_lib.files import sha256_file
from rice_lib.labels import VARIETIES

H100 = Gpu("NVIDIA H100", "9.0", "13.0")


@pytest.fixture
def manifest(tmp_path) -> EngineManifest:
    plan = tmp_path / "x.plan"
    plan.write_bytes(b"plan")
    found = EngineManifest(
        flavour="tensorrt",
        tensorrt="10.9.0.34",
        gpu=H100,
        onnx=str(tiny_onnx()),
        onnx_sha256=sha256_file(tiny_onnx()),
        plan_sha256=sha256_file(plan),
        precision="float16",
        profile=BatchProfile(1, 2, 4),
        labels=VARIETIES,
    )
    found.write(plan)
    return found


@pytest.mark.parametrize("precision", ["float32", "float16"])
@pytest.mark.parametrize("foreground", [True, False])
def test_a_plan_is_built_from_every_form(tmp_path, foreground, precision):
    rtx = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    source, plan = tiny_onnx(foreground, precision), tmp_path / "deep" / "x.plan"
    made = build_engine(source, plan, BatchProfile(1, 2, 5), flavour="tensorrt_rtx", workspace_mb=256)
    assert plan.stat().st_size > 10_000
    assert made == EngineManifest.read(plan)
    assert made.tensorrt == rtx.__version__
    assert made.precision == precision
    assert made.onnx_sha256 == sha256_file(source)
    assert made.labels == VARIETIES
    assert sorted(file.name for file in plan.parent.iterdir()) == ["x.plan", "x.plan.json"]


def test_the_timing_cache_is_written_and_read_again(tmp_path):
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    cache = tmp_path / "timing.cache"
    for _ in range(2):
        build_engine(tiny_onnx(), tmp_path / "x.plan", flavour="tensorrt_rtx", timing_cache=cache)
        assert cache.stat().st_size > 0


def test_a_network_that_tensorrt_cannot_parse_is_one_line_and_no_file(tmp_path):
    import onnx

    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    model = onnx.load(tiny_onnx())
    next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "NobodyKnows"
    onnx.save(model, tmp_path / "x.onnx")
    trt = import_tensorrt("tensorrt_rtx")
    with pytest.raises(RiceError, match="cannot parse it") as caught:
        tensorrt._build(trt, tmp_path / "x.onnx", BatchProfile(), 256, None)
    assert "\n" not in str(caught.value)


def test_the_command_builds(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    plan = tmp_path / "x.plan"
    flags = ["--output", str(plan), "--flavour", "tensorrt_rtx", "--batches", "1", "2", "3"]
    assert main(["tensorrt", str(tiny_onnx()), *flags]) == 0
    assert EngineManifest.read(plan).profile == BatchProfile(1, 2, 3)
    assert "x.plan.json: its manifest" in capsys.readouterr().out


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")
def test_a_plan_without_a_gpu_is_refused_in_one_line(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_runtime, "import_tensorrt", lambda flavour: SimpleNamespace(__version__="10.9.0.34"))
    with pytest.raises(RiceError, match="GPU"):
        open_predictor(tmp_path / "x.plan")
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda flavour: None)
    with pytest.raises(RiceError, match="there is none here"):
        build_engine(tiny_onnx(), tmp_path / "y.plan")


def test_profile_out_of_order_is_refused():
    for values in ((0, 1, 2), (2, 1, 3), (1, 4, 3)):
        with pytest.raises(RiceError, match="min <= opt <= max"):
            BatchProfile(*values)


def test_a_missing_tensorrt_says_what_to_install(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(RiceError, match="pip install tensorrt-rtx"):
        import_tensorrt("tensorrt_rtx")


def test_a_plan_that_belongs_here_is_let_pass(manifest, tmp_path):
    check_manifest(manifest, tmp_path / "x.plan", "10.9.0.34", H100)


@pytest.mark.parametrize(
    ("version", "gpu", "message"),
    [
        ("11.0.0.1", H100, r"built by tensorrt 10\.9\.0\.34, here is 11\.0\.0\.1"),
        ("10.9.0.34", replace(H100, name="NVIDIA H200"), r"built for NVIDIA H100 .*, here is NVIDIA H200"),
        ("10.9.0.34", replace(H100, compute_capability="8.0"), "compute capability 8.0"),
        ("10.9.0.34", replace(H100, cuda_driver="12.8"), r"built under CUDA 13\.0, the driver here has 12\.8"),
    ],
)
def test_a_mismatch_is_one_line_that_says_how_to_rebuild(manifest, tmp_path, version, gpu, message):
    plan = tmp_path / "x.plan"
    with pytest.raises(RiceError, match=message) as caught:
        check_manifest(manifest, plan, version, gpu)
    assert f"python -m rice_lib.export tensorrt {tiny_onnx()} --output {plan}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_newer_driver_is_no_mismatch(manifest, tmp_path):
    check_manifest(manifest, tmp_path / "x.plan", "10.9.0.34", replace(H100, cuda_driver="14.1"))


def test_a_plan_or_model_that_has_changed_is_refused(manifest, tmp_path):
    plan, source = tmp_path / "x.plan", tmp_path / "x.onnx"
    source.write_bytes(b"newer")
    with pytest.raises(RiceError, match="has changed since"):
        check_manifest(replace(manifest, onnx=str(source)), plan, "10.9.0.34", H100)
    plan.write_bytes(b"other")
    with pytest.raises(RiceError, match="belongs to another plan"):
        check_manifest(manifest, plan, "10.9.0.34", H100)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"gpu": 3}'])
def test_a_damaged_manifest_is_refused(manifest, tmp_path, content):
    file = manifest_file(tmp_path / "x.plan")
    file.write_text(content)
    with pytest.raises(RiceError, match=r"damaged|build it anew"):
        EngineManifest.read(tmp_path / "x.plan")
    file.unlink()
    with pytest.raises(RiceError, match="no engine manifest"):
        EngineManifest.read(tmp_path / "x.plan")


def test_the_manifest_is_plain_json(manifest, tmp_path):
    values = json.loads(manifest_file(tmp_path / "x.plan").read_text())
    assert values["gpu"] == {"name": "NVIDIA H100", "compute_capability": "9.0", "cuda_driver": "13.0"}
    assert values["profile"] == {"min": 1, "opt": 2, "max": 4}


class FakeGpu:
    """Device memory as a dict; stands in for `Cuda` so that the order of calls is checked without a GPU."""

    def __init__(self):
        self.memory, self.next, self.log = {}, 1, []

    def gpu(self):
        return H100

    def stream(self):
        return 7

    def allocate(self, size):
        self.next += 1
        self.memory[self.next] = bytearray(size)
        return self.next

    def upload(self, address, array, stream):
        assert array.nbytes <= len(self.memory[address])
        self.memory[address][: array.nbytes] = array.tobytes()
        self.log.append("upload")

    def download(self, array, address, stream):
        array[...] = np.frombuffer(self.memory[address][: array.nbytes], array.dtype).reshape(array.shape)
        self.log.append("download")

    def free(self, address):
        del self.memory[address]

    def destroy(self, stream):
        self.log.append("destroy")


class FakeEngine:
    """An engine and its context: its logits are five copies of each image's first byte."""

    num_io_tensors = 2

    def __init__(self, gpu):
        self.gpu, self.shape, self.addresses, self.batches = gpu, None, {}, []

    def create_execution_context(self):
        return self

    def get_tensor_name(self, number):
        return ("logits", "images")[number]

    def get_tensor_mode(self, name):
        return "in" if name == "images" else "out"

    def set_tensor_address(self, name, address):
        self.addresses[name] = address

    def set_input_shape(self, name, shape):
        assert name == "images"
        self.shape = shape

    def execute_async_v3(self, stream):
        assert stream == 7
        count = self.shape[0]
        self.batches.append(count)
        images = np.frombuffer(self.gpu.memory[self.addresses["images"]], np.uint8)
        first = images[: count * 224 * 224 * 3].reshape(count, -1)[:, :1].astype(np.float32)
        out = np.repeat(first, 5, axis=1).tobytes()
        self.gpu.memory[self.addresses["logits"]][: len(out)] = out
        return count != 3


@pytest.fixture
def fake(manifest, monkeypatch):
    """A machine with a GPU and TensorRT 10.9, as far as the runtime sees."""
    gpu = FakeGpu()
    engine = FakeEngine(gpu)
    trt = SimpleNamespace(
        __name__="tensorrt",
        __version__="10.9.0.34",
        TensorIOMode=SimpleNamespace(INPUT="in", OUTPUT="out"),
        Runtime=lambda logger: SimpleNamespace(
            deserialize_cuda_engine=lambda data: engine if data == b"plan" else None
        ),
    )
    monkeypatch.setattr(tensorrt_runtime, "Cuda", lambda: gpu)
    monkeypatch.setattr(tensorrt_runtime, "import_tensorrt", lambda flavour: trt)
    monkeypatch.setattr(tensorrt_runtime, "make_logger", lambda trt: SimpleNamespace(errors=["why"]))
    return gpu, engine


def test_the_runtime_moves_images_in_and_logits_out(fake, tmp_path):
    gpu, engine = fake
    pixels = grains(6)
    pixels[:, 0, 0, 0] = np.arange(6)
    with open_predictor(tmp_path / "x.plan") as model:
        assert model.labels == VARIETIES
        assert model.name == "tensorrt/GPU"
        logits = model.logits(pixels)
    assert engine.batches == [4, 2]
    assert logits.tolist() == [[float(i)] * 5 for i in range(6)]
    assert gpu.log == ["upload", "download", "upload", "download", "destroy"]
    assert not gpu.memory


def test_a_short_batch_is_filled_up_where_the_plan_takes_no_smaller_one(fake, manifest, tmp_path):
    replace(manifest, profile=BatchProfile(4, 4, 4)).write(tmp_path / "x.plan")
    with open_predictor(tmp_path / "x.plan") as model:
        assert model.logits(grains(1)).shape == (1, 5)
    assert fake[1].batches == [4]


def test_a_failing_call_is_a_line(fake, tmp_path):
    with (
        open_predictor(tmp_path / "x.plan") as model,
        pytest.raises(RiceError, match=r"failed on a batch of 3 \(why\)"),
    ):
        model.logits(grains(3))
