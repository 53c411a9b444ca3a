import json
import subprocess
import sys
from contextlib import nullcontext

import onnx
import pytest
from google.protobuf import text_format
from support.triton import write_onnx
from tritonclient.grpc import model_config_pb2 as pb

from rice_lib.common.errors import RiceError
from rice_lib.common.files import locked
from rice_lib.contract.decision import KEY, Decision
from rice_lib.serving import release as releases
from rice_lib.serving.repository import CONTRACT, Repository, drawn_grain, write_repository

DECISION = Decision(2.0, about={"where": 'on "жасмин"'})
LABELS = ('a "b"', "c\\d", "жасмин", "e\n")


def read(file):
    return text_format.Parse(file.read_text(), pb.ModelConfig())


def names(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


class Server:
    """A stand-in for a running server; `fails` is a model that it cannot load."""

    def __init__(self, repository, fails=None):
        self.repository, self.fails = repository, fails
        self.calls, self.versions, self.models = [], [], {"rice_v1_decode", "rice_v1", "rice_v1_postprocess", "other"}

    def loaded(self):
        return self.models

    def load(self, name):
        self.calls.append(name)
        self.models.add(name)
        if name == self.fails:
            raise RiceError("no")
        if name == "rice":
            self.versions.append(
                read(self.repository.folder / name / "config.pbtxt").parameters["version"].string_value
            )

    def unload(self, name):
        self.calls.append(f"unload {name}")


@pytest.fixture
def model(tmp_path):
    return write_onnx(tmp_path / "model.onnx")


@pytest.fixture
def other(tmp_path):
    return write_onnx(tmp_path / "other.onnx", ("One", "Two", "Three"))


@pytest.fixture
def config(tmp_path):
    """Read a configuration of version 1 of a model with a decision, as Triton's own schema has it."""
    source = write_onnx(tmp_path / "model.onnx", LABELS)
    model = onnx.load(source)
    onnx.helper.set_model_props(model, {"labels": json.dumps(LABELS), KEY: DECISION.to_json()})
    onnx.save(model, source)
    repository = Repository(tmp_path / "repository")
    repository.switch(repository.add(source, 32, instances=4).version)
    return lambda name: read(repository.folder / name)


def test_the_classifiers_config_is_what_tritons_own_schema_says(config):
    config = config("rice_v1/config.pbtxt")
    assert (config.name, config.backend, config.platform, config.max_batch_size) == ("rice_v1", "onnxruntime", "", 32)
    (image,), (logits,) = config.input, config.output
    assert (image.name, image.data_type, list(image.dims)) == ("images", pb.TYPE_UINT8, [224, 224, 3])
    assert image.format == pb.ModelInput.FORMAT_NHWC  # or NVIDIA's image clients do not run
    assert (logits.name, logits.data_type, list(logits.dims)) == ("logits", pb.TYPE_FP32, [4])
    assert logits.label_filename == "labels.txt"
    assert 0 < config.dynamic_batching.default_queue_policy.max_queue_size < 10000
    assert [(group.kind, group.count) for group in config.instance_group] == [(pb.ModelInstanceGroup.KIND_CPU, 4)]
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert sorted(warm.batch_size for warm in config.model_warmup) == [1, 32]


@pytest.mark.parametrize("engine", ["gpu", "tensorrt"])
def test_the_variants_for_a_gpu_are_alike_to_a_client(config, engine):
    cpu, gpu = config("rice_v1/config.pbtxt"), config(f"rice_v1/configs/{engine}.pbtxt")
    assert [group.kind for group in gpu.instance_group] == [pb.ModelInstanceGroup.KIND_GPU]
    assert (gpu.platform == "tensorrt_plan") == (engine == "tensorrt")
    assert gpu.default_model_filename == ("model.plan" if engine == "tensorrt" else "model.onnx")
    for field in ("name", "input", "output", "max_batch_size", "dynamic_batching"):
        assert getattr(cpu, field) == getattr(gpu, field)


def test_the_ensembles_say_which_version_answers_and_how_its_logits_are_read(config):
    pixels, files = config("rice/config.pbtxt"), config("rice_bytes/config.pbtxt")
    for ensemble in (pixels, files):
        assert ensemble.platform == "ensemble"
        assert list(ensemble.version_policy.specific.versions) == [1]
        assert ensemble.parameters["version"].string_value == "1"
        assert json.loads(ensemble.parameters["labels"].string_value) == list(LABELS)
    assert pixels.parameters["decision"].string_value == DECISION.to_json()
    assert "decision" not in files.parameters
    assert [step.model_name for step in pixels.ensemble_scheduling.step] == ["rice_v1"]
    steps = ["rice_v1_decode", "rice_v1", "rice_v1_postprocess"]
    assert [step.model_name for step in files.ensemble_scheduling.step] == steps
    outputs = ["variety", "confidence", "scores", "reason", "record", "notes", "error"]
    assert [tensor.name for tensor in files.output] == outputs
    assert [tensor.name for tensor in pixels.output] == ["logits"]


def test_an_ensembles_tensors_are_those_of_its_steps(config):
    for ensemble in (config("rice/config.pbtxt"), config("rice_bytes/config.pbtxt")):
        made = {tensor.name: tensor for tensor in ensemble.input}
        for step in ensemble.ensemble_scheduling.step:
            model = config(f"{step.model_name}/config.pbtxt")
            assert set(step.input_map) == {tensor.name for tensor in model.input} <= set(made)
            for tensor in model.input:
                assert (made[tensor.name].data_type, made[tensor.name].dims) == (tensor.data_type, tensor.dims)
            made.update({tensor.name: tensor for tensor in model.output if tensor.name in step.output_map})
        for tensor in ensemble.output:
            assert (made[tensor.name].data_type, made[tensor.name].dims) == (tensor.data_type, tensor.dims)


def test_the_repository_holds_the_models_their_code_and_every_variant(tmp_path, other):
    repository = write_repository(other, tmp_path / "repository", "grains", 4)
    found = names(repository.folder)
    assert {name.split("/")[0] for name in found} == {
        "grains", "grains_bytes", "grains_v1", "grains_v1_decode", "grains_v1_postprocess"
    }  # fmt: skip
    assert {name for name in found if name.startswith("grains_v1/")} == {
        "grains_v1/1/model.onnx", "grains_v1/config.pbtxt", "grains_v1/configs/gpu.pbtxt",
        "grains_v1/configs/tensorrt.pbtxt", "grains_v1/labels.txt", "grains_v1/version.json",
        "grains_v1/ensembles/grains.pbtxt", "grains_v1/ensembles/grains_bytes.pbtxt",
    }  # fmt: skip
    classifier = repository.classifier(1)
    assert (classifier / "labels.txt").read_text() == "One\nTwo\nThree\n"
    assert (classifier / "1" / "model.onnx").read_bytes() == other.read_bytes()
    assert read(classifier / "configs" / "tensorrt.pbtxt").output[0].dims == [3]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.onnx", "repository"]


@pytest.mark.parametrize("kind", ["decode", "postprocess"])
def test_the_contract_lies_complete_beside_a_model_and_needs_nothing_else_of_ours(tmp_path, model, kind):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    folder = repository.folder / f"rice_v1_{kind}" / "1"
    modules = sorted(file.stem for file in CONTRACT.glob("*.py"))
    assert sorted(file.stem for file in (folder / "rice_lib" / "contract").iterdir()) == modules
    imports = ", ".join(f"rice_lib.contract.{name}" for name in modules if name != "__init__")
    code = f"import sys; sys.path[0] = {str(folder)!r}; import {imports}; print(rice_lib.__file__)"
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(str(folder))


def test_a_new_version_goes_beside_the_old_one_and_back(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    before = names(repository.folder)
    made = repository.add(other, 8)
    assert (made.version, made.replaces, repository.active().version) == (2, 1, 1)
    assert before < names(repository.folder)
    server = Server(repository)
    repository.switch(2, server)
    new, old = (
        ["rice_v2_decode", "rice_v2", "rice_v2_postprocess"],
        ["rice_v1_decode", "rice_v1", "rice_v1_postprocess"],
    )
    assert server.calls == [*new, "rice", "rice_bytes", *(f"unload {name}" for name in sorted(old))]
    assert read(repository.folder / "rice" / "config.pbtxt").max_batch_size == 8
    repository.switch(repository.previous())
    assert (repository.active().version, sorted(repository.versions())) == (1, [1, 2])
    with pytest.raises(RiceError, match="no earlier version"):
        repository.previous()
    third = repository.add(other, 16)
    repository.switch(third.version)
    assert (third.version, repository.previous()) == (3, 1)


@pytest.mark.parametrize("damage", ["earlier", "text"])
def test_a_repository_of_an_earlier_state_or_a_damaged_one_says_how_to_build_it_again(tmp_path, model, damage):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    if damage == "earlier":
        file = repository.classifier(1) / "version.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "engine": "onnxruntime"}))
    else:
        (repository.folder / "rice_bytes" / "config.pbtxt").write_bytes(b"\xff nonsense")
    with pytest.raises(RiceError, match=r"earlier state.*delete .*repository and build it again \(rice serve build"):
        repository.active()


def test_the_same_model_with_the_same_settings_is_no_new_version(tmp_path, model):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    assert repository.add(model, 4).version == 1
    assert repository.add(model, 5).version == 2


def test_a_version_that_does_not_load_leaves_the_one_before_answering(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    repository.add(other, 4)
    server = Server(repository, fails="rice_bytes")
    with pytest.raises(RiceError, match="no"):
        repository.switch(2, server)
    assert repository.active().version == 1
    assert read(repository.folder / "rice" / "config.pbtxt").parameters["version"].string_value == "1"
    assert server.versions == ["2", "1"]  # of rice, as the server read it: there and back


def test_a_release_that_fails_says_why_though_its_clean_up_fails_too(tmp_path, model, other, monkeypatch):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    made = repository.add(other, 4)

    class Away(Server):
        def load(self, name):
            raise RiceError("no way to load")

        def unload(self, name):
            raise RiceError("no way to unload")

    monkeypatch.setattr(releases, "_connect", lambda server: nullcontext(Away(repository)))
    with pytest.raises(RiceError, match="version 2 is not taken into service: no way to load"):
        releases.release(repository, made, None)
    assert list(repository.versions()) == [1]


def test_one_switch_at_a_time(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    repository.add(other, 4)
    another, errors = Repository(repository.folder), []

    class Meanwhile(Server):
        def load(self, name):
            for act in (lambda: another.switch(1), lambda: another.add(other, 5)):
                with pytest.raises(RiceError, match="another build is under way") as error:
                    act()
                errors.append(error)

    repository.switch(2, Meanwhile(repository))
    assert errors
    assert repository.active().version == 2
    another.switch(1)  # free again
    assert repository.active().version == 1


def test_three_versions_stay_and_the_one_that_a_rollback_goes_back_to(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    for batch in range(5, 9):
        repository.switch(repository.add(model, batch).version)
    assert list(repository.versions()) == [3, 4, 5]
    repository.switch(3)
    repository.switch(repository.add(other, 4).version)
    repository.add(other, 5)
    made = repository.add(other, 6)
    assert (made.version, made.replaces) == (8, 6)
    repository.switch(8)
    assert list(repository.versions()) == [6, 7, 8]
    found = {path.name for path in repository.folder.iterdir()}
    steps = {f"rice_v{version}{step}" for version in (6, 7, 8) for step in ("", "_decode", "_postprocess")}
    assert found == {"rice", "rice_bytes", *steps}
    for name in ("rice", "rice_bytes"):
        assert {path.name for path in (repository.folder / name).iterdir() if path.is_dir()} == {"6", "8"}


def test_what_killed_builds_loaded_is_unloaded(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    repository.add(other, 4)
    server = Server(repository)
    server.models |= {"rice_v7", "rice_v7_decode"}
    repository.switch(2, server)
    unloaded = {call.removeprefix("unload ") for call in server.calls if call.startswith("unload")}
    assert unloaded == {"rice_v1_decode", "rice_v1", "rice_v1_postprocess", "rice_v7", "rice_v7_decode"}


def test_a_build_that_was_killed_between_two_configurations_is_mended(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    before = (repository.folder / "rice" / "config.pbtxt").read_text()
    repository.switch(repository.add(other, 4).version)
    (repository.folder / "rice" / "config.pbtxt").write_text(before)
    (repository.folder / "rice_v3_decode").mkdir()
    (tmp_path / ".repository.abc").mkdir()
    repository.mend()
    for name in ("rice", "rice_bytes"):
        assert read(repository.folder / name / "config.pbtxt").parameters["version"].string_value == "2"
    assert not (repository.folder / "rice_v3_decode").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"model.onnx", "other.onnx", "repository"}


def test_a_version_that_is_not_there_is_named(tmp_path, model):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    with pytest.raises(RiceError, match=r"no version 7 of rice \(there: 1\)"):
        repository.switch(7)


def test_the_number_of_a_version_that_was_cut_off_is_not_used_again(tmp_path, model, other):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    (repository.folder / "rice_v2_decode").mkdir()
    assert sorted(repository.versions()) == [1]
    assert repository.add(other, 4).version == 3


def test_a_damaged_model_leaves_the_repository_as_it_was(tmp_path, model):
    repository = write_repository(model, tmp_path / "repository", "rice", 4)
    before = names(repository.folder)
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(RiceError, match=r"damaged\.onnx"):
        repository.add(damaged, 4)
    assert names(repository.folder) == before
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
    from rice_lib.contract.features import COLUMN, extract_features

    features = extract_features(decode(drawn_grain()))
    assert (features[COLUMN["objects"]], features[COLUMN["rim"]]) == (1, 0)
    assert 0.05 < features[COLUMN["area"]] < 0.4
