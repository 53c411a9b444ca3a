"""Plans really built (by TensorRT for RTX, which needs no GPU), their manifests, and the calls that run one."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from support.models import grains, tiny_onnx

from rice_lib.backends import plan as tensorrt_runtime
from rice_lib.backends.cuda import Gpu, find_gpu
from rice_lib.backends.onnx import OnnxPredictor
from rice_lib.backends.open import open_predictor
from rice_lib.backends.plan import (
    Agreement,
    BatchProfile,
    EngineManifest,
    check_manifest,
    import_tensorrt,
    manifest_file,
)
from rice_lib.cli.export import main
from rice_lib.common.errors import RiceError
from rice_lib.common.files import sha256_file
from rice_lib.data.synthetic import VARIETIES
from rice_lib.export import tensorrt
from rice_lib.export.tensorrt import build_engine

H100 = Gpu("NVIDIA H100", "9.0", "13.0")


def photograph(file):
    Image.fromarray(grains(1)[0]).save(file)


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
    made = build_engine(source, plan, BatchProfile(1, 2, 5), flavour="tensorrt_rtx")
    assert plan.stat().st_size > 10_000
    assert made == EngineManifest.read(plan)
    assert made.tensorrt == rtx.__version__
    assert made.precision == precision
    assert made.onnx_sha256 == sha256_file(source)
    assert made.labels == VARIETIES
    assert sorted(file.name for file in plan.parent.iterdir()) == ["x.plan", "x.plan.json"]


def test_a_network_that_tensorrt_cannot_parse_is_one_line_and_no_file(tmp_path):
    import onnx

    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    model = onnx.load(tiny_onnx())
    next(node for node in model.graph.node if node.op_type == "Softmax").op_type = "NobodyKnows"
    onnx.save(model, tmp_path / "x.onnx")
    trt = import_tensorrt("tensorrt_rtx")
    with pytest.raises(RiceError, match="cannot parse it") as caught:
        tensorrt._build(trt, tmp_path / "x.onnx", BatchProfile())
    assert "\n" not in str(caught.value)


def test_the_command_builds(tmp_path, capsys):
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    plan = tmp_path / "x.plan"
    flags = ["--output", str(plan), "--flavour", "tensorrt_rtx", "--batches", "1", "2", "3"]
    assert main(["tensorrt", str(tiny_onnx()), *flags]) == 0
    assert EngineManifest.read(plan).profile == BatchProfile(1, 2, 3)
    said = capsys.readouterr().out
    assert "x.plan.json: its manifest" in said
    assert "not checked on images (--images FOLDER does)" in said


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")
def test_a_plan_without_a_gpu_is_one_line(manifest, tmp_path, monkeypatch):
    monkeypatch.setattr(tensorrt_runtime, "import_tensorrt", lambda flavour: SimpleNamespace(__version__="10.9.0.34"))
    with pytest.raises(RiceError, match="GPU"):
        open_predictor(tmp_path / "x.plan")
    monkeypatch.setattr(tensorrt, "import_tensorrt", lambda flavour: None)
    with pytest.raises(RiceError, match="there is none here"):
        build_engine(tiny_onnx(), tmp_path / "y.plan")


@pytest.mark.skipif(find_gpu() is not None, reason="there is a GPU here")
def test_images_without_a_gpu_are_rejected_before_anything_is_built(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    monkeypatch.setattr(tensorrt, "_build", lambda *_: pytest.fail("built"))
    photograph(tmp_path / "a.png")
    flags = ["--output", str(tmp_path / "x.plan"), "--flavour", "tensorrt_rtx", "--images", str(tmp_path)]
    with pytest.raises(RiceError, match="none here; leave out --images") as caught:
        main(["tensorrt", str(tiny_onnx()), *flags])
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["a.png"]


def test_a_profile_out_of_order_is_an_error():
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
    ],
)
def test_a_mismatch_is_one_line_that_says_how_to_rebuild(manifest, tmp_path, version, gpu, message):
    plan = tmp_path / "x.plan"
    with pytest.raises(RiceError, match=message) as caught:
        check_manifest(manifest, plan, version, gpu)
    assert f"rice export tensorrt {tiny_onnx()} --output {plan}" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_another_driver_is_no_mismatch(manifest, tmp_path):
    check_manifest(manifest, tmp_path / "x.plan", "10.9.0.34", replace(H100, cuda_driver="14.1"))


def test_a_plan_or_model_that_has_changed_is_rejected(manifest, tmp_path):
    plan, source = tmp_path / "x.plan", tmp_path / "x.onnx"
    source.write_bytes(b"newer")
    with pytest.raises(RiceError, match="has changed since"):
        check_manifest(replace(manifest, onnx=str(source)), plan, "10.9.0.34", H100)
    plan.write_bytes(b"other")
    with pytest.raises(RiceError, match="belongs to another plan"):
        check_manifest(manifest, plan, "10.9.0.34", H100)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"gpu": 3}'])
def test_a_damaged_manifest_is_one_line(manifest, tmp_path, content):
    file = manifest_file(tmp_path / "x.plan")
    file.write_text(content)
    with pytest.raises(RiceError, match=r"damaged; build it again"):
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

    def call(self, function, *arguments):
        if function == "cudaMalloc":
            self.next += 1
            self.memory[self.next] = bytearray(*arguments)
            return self.next
        if function == "cudaFree":
            return self.memory.pop(*arguments)
        self.log.append(function)
        return 7

    def upload(self, address, array, stream):
        assert array.nbytes <= len(self.memory[address])
        self.memory[address][: array.nbytes] = array.tobytes()
        self.log.append("upload")

    def download(self, array, address, stream):
        array[...] = np.frombuffer(self.memory[address][: array.nbytes], array.dtype).reshape(array.shape)
        self.log.append("download")


class FakeEngine:
    """An engine and its context: its logits are five copies of each image's first byte, or what `answer` says."""

    num_io_tensors = 2

    def __init__(self, gpu):
        self.gpu, self.shape, self.addresses, self.batches = gpu, None, {}, []
        self.answer = lambda images: np.repeat(images[:, 0, 0, :1].astype(np.float32), 5, axis=1)

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
        out = self.answer(images[: count * 224 * 224 * 3].reshape(count, 224, 224, 3)).tobytes()
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
    assert gpu.log == ["cudaStreamCreate", *["upload", "download"] * 2, "cudaStreamDestroy"]
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


@pytest.fixture
def builder(fake, monkeypatch):
    """The machine of `fake` builds, too: a plan that answers as ONNX Runtime does, `spoil` of its logits."""
    gpu, engine = fake
    monkeypatch.setattr(tensorrt, "find_gpu", gpu.gpu)
    monkeypatch.setattr(tensorrt, "import_tensorrt", tensorrt_runtime.import_tensorrt)
    monkeypatch.setattr(tensorrt, "_build", lambda *_: b"plan")

    def spoil(change):
        def answer(images):
            with OnnxPredictor(tiny_onnx()) as model:
                return change(model.logits(images)).astype(np.float32)

        engine.answer = answer

    return spoil


def test_a_plan_that_predicts_as_onnx_runtime_does_is_accepted(builder, tmp_path, capsys):
    builder(lambda logits: logits + 0.001)
    folder, plan = tmp_path / "images", tmp_path / "new" / "y.plan"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        photograph(folder / name)
    assert main(["tensorrt", str(tiny_onnx()), "--output", str(plan), "--images", str(folder)]) == 0
    agreement = EngineManifest.read(plan).agreement
    assert (agreement.images, agreement.labels_equal) == (2, 2)
    assert agreement.max_abs_difference == pytest.approx(0.001, rel=0.01)
    assert "2 of 2 labels as ONNX Runtime's, logits within 1.0e-03" in capsys.readouterr().out
    assert sorted(os.listdir(plan.parent)) == ["y.plan", "y.plan.json"]
    with open_predictor(plan) as model:  # its manifest fits it
        assert model.labels == VARIETIES


@pytest.mark.parametrize(
    ("change", "figures"),
    [
        (lambda logits: logits + 0.02, r"6 of 6 labels .* within 2\.0e-02 .*required are 99\.5% .* and 0\.01"),
        (lambda logits: np.where(logits == logits.max(1, keepdims=True), logits.min() - 1e-3, logits), "0 of 6 labels"),
        (lambda logits: logits * np.nan, "nan"),
    ],
)
def test_a_plan_that_disagrees_is_rejected_and_the_one_before_stays(builder, manifest, tmp_path, change, figures):
    builder(change)
    plan = tmp_path / "x.plan"
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(RiceError, match=figures) as caught:
        build_engine(tiny_onnx(), plan, pixels=grains(6))
    assert "\n" not in str(caught.value)
    assert sorted(os.listdir(tmp_path)) == before
    assert EngineManifest.read(plan) == manifest


def test_agreement_counts_labels_and_measures_logits():
    found = Agreement.of(np.array([[0.0, 1.0], [3.0, 0.0]]), np.array([[0.0, 2.0], [0.0, 1.0]]))
    assert found == Agreement(images=2, labels_equal=1, max_abs_difference=3.0, mean_abs_difference=1.25)
