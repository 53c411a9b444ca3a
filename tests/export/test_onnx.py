"""The exported file: its interface, its metadata, and the same logits as torch."""

import copy
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from support.models import KEEP, grains, tiny_checkpoint, tiny_classifier, tiny_onnx

from rice_lib.cli.export import main
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import decode
from rice_lib.data.synthetic import VARIETIES
from rice_lib.export.onnx import OPSETS, check_parity, export


def operator_counts(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_interface_is_bytes_in_float_logits_out_with_a_free_batch(precision):
    graph = onnx.load(tiny_onnx(precision=precision)).graph
    (image,), (logits,) = graph.input, graph.output
    assert image.name == "images"
    assert image.type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert [d.dim_param or d.dim_value for d in image.type.tensor_type.shape.dim] == ["batch", 224, 224, 3]
    assert logits.name == "logits"
    assert logits.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    assert [d.dim_param or d.dim_value for d in logits.type.tensor_type.shape.dim] == ["batch", 5]


def test_metadata_holds_labels_and_provenance_and_nothing_of_the_building_machine():
    path = tiny_onnx()
    metadata = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(metadata["labels"]) == list(VARIETIES)
    assert metadata["precision"] == "float32"
    assert json.loads(metadata["provenance"])["commit"] == "abc"
    content = path.read_bytes()
    for trace in (b".py", b"stack_trace", str(Path(torch.__file__).parent).encode(), os.getcwd().encode()):
        assert trace not in content


def test_the_choice_of_patches_is_in_the_graph_of_a_foreground_model_alone():
    chosen, dense = operator_counts(tiny_onnx()), operator_counts(tiny_onnx(foreground=False))
    assert chosen["TopK"] == 1
    assert chosen["GatherElements"] == 1
    assert "TopK" not in dense
    sizes = [int(onnx.numpy_helper.to_array(t)[0]) for t in onnx.load(tiny_onnx()).graph.initializer if t.dims == [1]]
    assert KEEP in sizes


def test_the_graph_is_made_of_operators_that_runtimes_have_fast():
    counts = operator_counts(tiny_onnx())
    assert counts["Gelu"] == 1
    assert counts["LayerNormalization"] == 3
    assert counts["Softmax"] == 1
    assert "IsNaN" not in counts  # left by the export of torch's fused attention
    assert "Erf" not in counts


def test_half_form_computes_in_half_precision():
    def types(path):
        return {t.data_type for t in onnx.load(path).graph.initializer if len(t.dims) == 2 and t.dims[0] == t.dims[1]}

    assert types(tiny_onnx()) == {onnx.TensorProto.FLOAT}
    assert types(tiny_onnx(precision="float16")) == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("foreground", [True, False])
def test_parity_at_one_three_and_all(foreground):
    found = check_parity(tiny_classifier(foreground), tiny_onnx(foreground), grains(11), tolerance=1e-4)
    assert [parity.batch for parity in found] == [1, 3, 11]
    assert all(parity.labels_changed == 0 for parity in found)


def test_parity_of_the_half_form():
    found = check_parity(tiny_classifier(), tiny_onnx(precision="float16"), grains(7), 0.1)
    assert 0 < found[-1].max_abs < 0.1


def test_parity_where_every_patch_is_as_bright_as_the_next():
    # which of equal patches TopK takes is each runtime's own choice; the model leaves it none
    pixels = np.stack([np.full((224, 224, 3), value, np.uint8) for value in (0, 1, 77, 255)])
    check_parity(tiny_classifier(), tiny_onnx(), pixels, tolerance=1e-4)


def test_parity_fails_for_another_model():
    other = copy.deepcopy(tiny_classifier())
    with torch.no_grad():
        other.model.classifier.weight.mul_(2)
    with pytest.raises(RiceError, match="differs from torch") as caught:
        check_parity(other, tiny_onnx(), grains(2), tolerance=1e-3)
    assert caught.value.status == 1


def test_export_leaves_the_model_as_it_was(tmp_path):
    before = {name: value.clone() for name, value in tiny_classifier().state_dict().items()}
    export(tiny_classifier(), tmp_path / "x.onnx", precision="float16", labels=VARIETIES)
    after = tiny_classifier().state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert tiny_classifier().model.config._attn_implementation == "sdpa"


def test_labels_that_do_not_fit_are_an_error(tmp_path):
    with pytest.raises(RiceError, match="4 labels for a model of 5 classes"):
        export(tiny_classifier(), tmp_path / "x.onnx", labels=VARIETIES[:4])
    assert not list(tmp_path.iterdir())


def test_command_exports_and_checks(tmp_path, capsys):
    from support.models import write_grains

    write_grains(tmp_path / "images", 4)
    target = tmp_path / "deep" / "model.onnx"
    assert main(["onnx", str(tiny_checkpoint()), "--output", str(target), "--images", str(tmp_path / "images")]) == 0
    assert target.is_file()
    assert "batch 4: within" in capsys.readouterr().out


def test_what_is_no_checkpoint_is_one_line(tmp_path):
    with pytest.raises(RiceError, match="no checkpoint here"):
        main(["onnx", str(tmp_path), "--output", str(tmp_path / "x.onnx")])


@pytest.mark.parametrize("opset", [OPSETS[0], OPSETS[-1]])
def test_the_operator_sets_that_the_error_names_are_written(tmp_path, opset):
    written = onnx.load(export(tiny_classifier(), tmp_path / "x.onnx", labels=VARIETIES, opset=opset))
    assert [entry.version for entry in written.opset_import if not entry.domain] == [opset]


@pytest.mark.parametrize("opset", [17, 99])
def test_an_operator_set_that_torch_does_not_write_is_one_line(tmp_path, opset):
    with pytest.raises(RiceError, match=rf"--opset {opset}: the sets 18 to 2\d are written") as caught:
        main(["onnx", str(tiny_checkpoint()), "--output", str(tmp_path / "x.onnx"), "--opset", str(opset)])
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("verb", "name", "ends"), [("onnx", "model", r"\.onnx"), ("tensorrt", "x.trt", r"\.plan or \.engine")]
)
def test_an_output_that_could_not_be_opened_again_is_one_line(tmp_path, verb, name, ends):
    with pytest.raises(RiceError, match=rf"{name}: cannot be opened as a model later; let its name end in {ends}$"):
        main([verb, str(tmp_path / "source"), "--output", str(tmp_path / name)])


@pytest.mark.real
@pytest.mark.parametrize("foreground", [True, False])
def test_parity_on_real_images(real_images, foreground):
    pixels = np.stack([decode(file) for file in real_images(24)])
    check_parity(tiny_classifier(foreground), tiny_onnx(foreground), pixels, tolerance=1e-4)


@pytest.fixture
def real_images(tmp_path):
    """A function that gives `n` real image files, evenly from `RICE_DATA` (a zip or a folder)."""
    source = os.environ.get("RICE_DATA")
    if not source:
        pytest.skip("RICE_DATA names no real images")

    def take(count: int) -> list[Path]:
        if Path(source).is_dir():
            files = sorted(Path(source).rglob("*.jpg"))
            return files[:: max(1, len(files) // count)][:count]
        import zipfile

        with zipfile.ZipFile(source) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
            names = names[:: max(1, len(names) // count)][:count]
            return [Path(archive.extract(name, tmp_path)) for name in names]

    return take
