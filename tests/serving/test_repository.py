import json
import subprocess
import sys

import pytest
from google.protobuf import text_format
from support.triton import write_onnx
from tritonclient.grpc import model_config_pb2 as pb

from rice_lib.common.classes import VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.common.files import locked
from rice_lib.contract.decision import Decision
from rice_lib.serving import config as configs
from rice_lib.serving.config import Names, Served
from rice_lib.serving.repository import CONTRACT, Repository, drawn_grain, write_repository

SERVED = Served(version=3, labels=VARIETIES, decision=Decision(2.0), max_batch=32, instances=4)
NAMES = Names("rice")


def parse(text):
    return text_format.Parse(text, pb.ModelConfig())


def read(file):
    return parse(file.read_text())


@pytest.fixture
def model(tmp_path):
    return write_onnx(tmp_path / "model.onnx")


@pytest.fixture
def other(tmp_path):
    return write_onnx(tmp_path / "other.onnx", ("One", "Two", "Three"))


def test_the_classifiers_config_is_what_tritons_own_schema_says():
    config = parse(configs.classifier_config("rice_v3", SERVED))
    assert (config.name, config.backend, config.platform, config.max_batch_size) == ("rice_v3", "onnxruntime", "", 32)
    (image,), (logits,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("images", pb.TYPE_UINT8, [224, 224, 3])
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", pb.TYPE_FP32, [5])
    assert logits.label_filename == "labels.txt"
    assert 0 < config.dynamic_batching.default_queue_policy.max_queue_size < 1000
    assert [(group.kind, group.count) for group in config.instance_group] == [(pb.ModelInstanceGroup.KIND_CPU, 4)]
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert sorted(warm.batch_size for warm in config.model_warmup) == [1, 32]


@pytest.mark.parametrize("engine", ["gpu", "tensorrt"])
def test_the_variants_for_a_gpu_are_alike_to_a_client(engine):
    cpu, gpu = (parse(configs.classifier_config("rice_v3", SERVED, e)) for e in ("onnxruntime", engine))
    assert [group.kind for group in gpu.instance_group] == [pb.ModelInstanceGroup.KIND_GPU]
    assert (gpu.platform == "tensorrt_plan") == (engine == "tensorrt")
    assert gpu.default_model_filename == ("model.plan" if engine == "tensorrt" else "model.onnx")
    for field in ("name", "input", "output", "max_batch_size", "dynamic_batching"):
        assert getattr(cpu, field) == getattr(gpu, field)


def test_what_clients_ask_says_which_version_answers_and_how_its_logits_are_read():
    pixels, files = (parse(make(NAMES, SERVED)) for make in (configs.pixels_config, configs.bytes_config))
    for config, name in ((pixels, "rice"), (files, "rice_bytes")):
        assert (config.name, config.platform) == (name, "ensemble")
        assert list(config.version_policy.specific.versions) == [3]
        assert config.parameters["version"].string_value == "3"
    assert pixels.parameters["decision"].string_value == SERVED.decision.to_json()
    assert [step.model_name for step in pixels.ensemble_scheduling.step] == ["rice_v3"]
    assert [step.model_name for step in files.ensemble_scheduling.step] == ["rice_v3_decode", "rice_v3", "rice_v3_tell"]
    plain = parse(configs.pixels_config(NAMES, Served(1, VARIETIES, None, 4, 1)))
    assert "decision" not in plain.parameters


def test_an_ensembles_tensors_are_those_of_its_steps():
    files = parse(configs.bytes_config(NAMES, SERVED))
    models = {
        "rice_v3_decode": parse(configs.decode_config("rice_v3_decode", SERVED)),
        "rice_v3": parse(configs.classifier_config("rice_v3", SERVED)),
        "rice_v3_tell": parse(configs.tell_config("rice_v3_tell", SERVED)),
    }
    made = {tensor.name: tensor for tensor in files.input}
    for step in files.ensemble_scheduling.step:
        config = models[step.model_name]
        assert set(step.input_map) == {tensor.name for tensor in config.input} <= set(made)
        for tensor in config.input:
            assert (made[tensor.name].data_type, made[tensor.name].dims) == (tensor.data_type, tensor.dims)
        made.update({tensor.name: tensor for tensor in config.output if tensor.name in step.output_map})
    for tensor in files.output:
        assert (made[tensor.name].data_type, made[tensor.name].dims) == (tensor.data_type, tensor.dims)


def test_labels_survive_quotes_and_other_scripts():
    labels = ('a "b"', "c\\d", "жасмин", "e\n")
    config = parse(configs.pixels_config(NAMES, Served(1, labels, None, 1, 1)))
    assert json.loads(config.parameters["labels"].string_value) == list(labels)


def test_the_repository_holds_the_models_their_code_and_every_variant(tmp_path, other):
    repository = write_repository(other, tmp_path / "repository", "grains", 4)
    names = [name for name, _ in repository.files()]
    assert {name.split("/")[0] for name in names} == {
        "grains", "grains_bytes", "grains_v1", "grains_v1_decode", "grains_v1_tell"
    }  # fmt: skip
    assert {name for name in names if name.startswith("grains_v1/")} == {
        "grains_v1/1/model.onnx", "grains_v1/config.pbtxt", "grains_v1/configs/gpu.pbtxt",
        "grains_v1/configs/tensorrt.pbtxt", "grains_v1/labels.txt", "grains_v1/version.json",
    }  # fmt: skip
    classifier = repository.classifier(1)
    assert (classifier / "labels.txt").read_text() == "One\nTwo\nThree\n"
    assert (classifier / "1" / "model.onnx").read_bytes() == other.read_bytes()
    assert read(classifier / "configs" / "tensorrt.pbtxt").output[0].dims == [3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.onnx", "repository"]


@pytest.mark.parametrize("kind", CONTRACT)
def test_the_code_beside_a_model_is_whole(tmp_path, model, kind):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    folder = repository.folder / f"rice_v1_{kind}" / "1"
    modules = ", ".join(f"rice_lib.{name}" for name in CONTRACT[kind][1:])
    code = f"import sys; sys.path[0] = {str(folder)!r}; import {modules}; print(rice_lib.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(folder))


def test_a_new_version_goes_beside_the_old_one_and_back(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    before = dict(repository.files())
    made = repository.add(other, 8)
    assert (made.version, made.replaces, repository.active().version) == (2, 1, 1)
    assert before.items() <= dict(repository.files()).items()
    asked = []
    repository.switch(2, load=asked.append, unload=asked.append)
    new, old = (["rice_v2_decode", "rice_v2", "rice_v2_tell"], ["rice_v1_decode", "rice_v1", "rice_v1_tell"])
    assert asked == [*new, "rice", "rice_bytes", *old]
    assert read(repository.folder / "rice" / "config.pbtxt").max_batch_size == 8
    repository.switch(repository.previous())
    assert (repository.active().version, sorted(repository.versions())) == (1, [1, 2])
    with pytest.raises(RiceError, match="no earlier version"):
        repository.previous()
    third = repository.add(other, 16)
    repository.switch(third.version)
    assert (third.version, repository.previous()) == (3, 1)


def test_the_same_model_with_the_same_settings_is_no_new_version(tmp_path, model):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    assert repository.add(model, 4).version == 1
    assert repository.add(model, 5).version == 2


def test_a_version_that_does_not_load_leaves_the_one_before_answering(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    repository.add(other, 4)

    served = []

    def load(name):
        if name == "rice_bytes":
            raise RiceError("no")
        if name == "rice":
            served.append(read(repository.folder / name / "config.pbtxt").parameters["version"].string_value)

    with pytest.raises(RiceError, match="no"):
        repository.switch(2, load=load)
    assert repository.active().version == 1
    assert read(repository.folder / "rice" / "config.pbtxt").parameters["version"].string_value == "1"
    assert served == ["2", "1"]  # of rice, as the server read it: there and back


def test_a_version_that_is_not_there_is_named(tmp_path, model):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    with pytest.raises(RiceError, match=r"no version 7 of rice \(there: 1\)"):
        repository.switch(7)


def test_the_number_of_a_version_that_was_cut_off_is_not_used_again(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    (repository.folder / "rice_v2_decode").mkdir()
    assert sorted(repository.versions()) == [1]
    assert repository.add(other, 4).version == 3


def test_a_plan_lies_beside_its_model(tmp_path, model):
    plan = tmp_path / "model.plan"
    plan.write_bytes(b"a plan")
    repository = Repository(tmp_path / "repository")
    made = repository.add(model, 4, engine="tensorrt", plan=plan)
    classifier = repository.classifier(made.version)
    assert (classifier / "1" / "model.plan").read_bytes() == b"a plan"
    assert read(classifier / "config.pbtxt").platform == "tensorrt_plan"


def test_a_plan_that_is_not_there_is_one_line(tmp_path, model):
    with pytest.raises(RiceError, match=r"missing\.plan: no such plan"):
        Repository(tmp_path / "repository").add(model, 4, plan=tmp_path / "missing.plan")
    assert not (tmp_path / "repository").exists()


def test_a_damaged_model_is_refused_and_the_repository_stays(tmp_path, model):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    before = repository.files()
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(RiceError, match=r"damaged\.onnx"):
        repository.add(damaged, 4)
    assert repository.files() == before
    assert not list(tmp_path.glob(".*"))


def test_two_builds_at_the_same_time(tmp_path, model):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    with locked(repository.folder, "-"), pytest.raises(RiceError, match="another build is under way"):
        repository.add(model, 5)


@pytest.mark.parametrize(
    ("file", "name", "match"),
    [
        ("model.onnx", "../rice", "model_name"),
        ("model.onnx", "", "model_name"),
        ("model.plan", "rice", "takes an .onnx"),
        ("missing.onnx", "rice", "no such model"),
    ],
)
def test_what_cannot_be_served_is_one_clear_line(tmp_path, model, file, name, match):
    (tmp_path / "model.plan").touch()
    with pytest.raises(RiceError, match=match):
        write_repository(tmp_path / file, tmp_path / "repository", name, 4)
    assert not (tmp_path / "repository").exists()


def test_the_grain_that_warms_up_is_one():
    from rice_lib.contract.decode import decode
    from rice_lib.contract.features import COLUMN, measure

    features = measure(decode(drawn_grain()))
    assert (features[COLUMN["objects"]], features[COLUMN["rim"]]) == (1, 0)
    assert 0.05 < features[COLUMN["area"]] < 0.4
