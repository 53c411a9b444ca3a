import json

import pytest
from google.protobuf import text_format
from triton_support import write_onnx
from tritonclient.grpc import model_config_pb2 as pb

from rice_lib.deploy.triton.repository import model_config, repository_files, write_repository
from rice_lib.errors import RiceError
from rice_lib.labels import VARIETIES


def parse(text):
    return text_format.Parse(text, pb.ModelConfig())


def test_the_config_is_what_tritons_own_schema_says():
    config = parse(model_config("rice", VARIETIES, 32))
    assert (config.name, config.backend, config.platform, config.max_batch_size) == ("rice", "onnxruntime", "", 32)
    (image,), (logits,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("images", pb.TYPE_UINT8, [224, 224, 3])
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", pb.TYPE_FP32, [5])
    assert logits.label_filename == "labels.txt"
    assert config.HasField("dynamic_batching")
    assert [(group.kind, group.count) for group in config.instance_group] == [(pb.ModelInstanceGroup.KIND_AUTO, 1)]
    assert json.loads(config.parameters["labels"].string_value) == list(VARIETIES)


def test_the_tensorrt_variant_differs_in_its_engine_alone():
    onnx, plan = (parse(model_config("rice", VARIETIES, 32, engine)) for engine in ("onnxruntime", "tensorrt"))
    assert (plan.platform, plan.default_model_filename) == ("tensorrt_plan", "model.plan")
    for config in (onnx, plan):
        for field in ("backend", "platform", "default_model_filename"):
            config.ClearField(field)
    assert onnx == plan


def test_labels_survive_quotes_and_other_scripts():
    labels = ('a "b"', "c\\d", "жасмин", "e\n")
    assert json.loads(parse(model_config("rice", labels, 1)).parameters["labels"].string_value) == list(labels)


def test_the_repository_holds_both_configs_the_labels_and_the_model(tmp_path):
    model = write_onnx(tmp_path / "model.onnx", ("One", "Two", "Three"))
    target = write_repository(model, tmp_path / "repository", "grains", 4)
    assert target == tmp_path / "repository" / "grains"
    assert [name for name, _ in repository_files(tmp_path / "repository")] == [
        "grains/1/model.onnx",
        "grains/config.pbtxt",
        "grains/configs/tensorrt.pbtxt",
        "grains/labels.txt",
    ]
    assert (target / "labels.txt").read_text() == "One\nTwo\nThree\n"
    assert (target / "1" / "model.onnx").read_bytes() == model.read_bytes()
    assert parse((target / "configs" / "tensorrt.pbtxt").read_text()).output[0].dims == [3]


def test_writing_again_drops_the_plan_of_the_earlier_model_and_leaves_other_models(tmp_path):
    model, repository = write_onnx(tmp_path / "model.onnx"), tmp_path / "repository"
    write_repository(model, repository, "other", 4)
    target = write_repository(model, repository, "rice", 4)
    (target / "1" / "model.plan").write_bytes(b"of the earlier model")
    write_repository(model, repository, "rice", 8)
    assert not (target / "1" / "model.plan").exists()
    assert parse((target / "config.pbtxt").read_text()).max_batch_size == 8
    assert parse((repository / "other" / "config.pbtxt").read_text()).max_batch_size == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.onnx", "repository"]


def test_a_damaged_model_is_refused_and_the_earlier_repository_stays(tmp_path):
    target = write_repository(write_onnx(tmp_path / "model.onnx"), tmp_path / "repository", "rice", 4)
    before = repository_files(target)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes((tmp_path / "model.onnx").read_bytes()[:-100])
    with pytest.raises(RiceError, match=r"damaged\.onnx"):
        write_repository(damaged, tmp_path / "repository", "rice", 4)
    assert repository_files(target) == before
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("file", "name", "match"),
    [
        ("model.onnx", "../rice", "model_name"),
        ("model.onnx", "", "model_name"),
        ("model.plan", "rice", "takes an .onnx"),
        ("missing.onnx", "rice", "no such model"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(tmp_path, file, name, match):
    write_onnx(tmp_path / "model.onnx")
    (tmp_path / "model.plan").touch()
    with pytest.raises(RiceError, match=match):
        write_repository(tmp_path / file, tmp_path / "repository", name, 4)
    assert not (tmp_path / "repository").exists()
