"""Profiles are validated: files that must load, files that must not, and what the error says of these.

The first line of a file in `params/invalid/` is a comment: what the error must say.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

from rice_lib.cli.set_params import main, set_params
from rice_lib.common.errors import RiceError
from rice_lib.common.parameters import Params, load_params, parse_overrides
from rice_lib.common.run import Run

FILES = Path(__file__).parent / "params"
PROFILES = sorted((Path(__file__).parents[2] / "params").glob("*.yaml"))


def named(files):
    return [pytest.param(file, id=file.stem) for file in sorted(files)]


@pytest.mark.parametrize("file", named([*PROFILES, *(FILES / "valid").glob("*.yaml")]))
def test_valid(file):
    assert isinstance(load_params(str(file)), Params)


@pytest.mark.parametrize("file", named((FILES / "invalid").glob("*.yaml")))
def test_invalid_is_one_line_with_file_and_key(file):
    expected = file.read_text().splitlines()[0].removeprefix("# ")
    with pytest.raises(RiceError) as error:
        load_params(str(file))
    message = str(error.value)
    assert message.startswith(f"{file}: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize("file", named(PROFILES))
def test_profile_is_named_as_its_file(file):
    assert load_params(file.stem).profile == file.stem


def test_a_copied_profile_has_its_own_name_and_folders(tmp_path, monkeypatch, capsys):
    """A copy of smoke.yaml wrote into data/smoke once, for the name inside it."""
    for name in ("params", "notebooks"):
        (tmp_path / name).mkdir()
    copy = tmp_path / "params/mine.yaml"
    copy.write_text((PROFILES[0].parent / "smoke.yaml").read_text())
    monkeypatch.setenv("RICE_ROOT", str(tmp_path))
    run = Run.open("mine")
    assert run.params.profile == load_params(str(copy)).profile == "mine"
    assert run.paths.data == tmp_path / "data/mine"
    assert "says profile: smoke; its name counts, mine" in capsys.readouterr().err
    set_params("mine", [])
    assert yaml.safe_load(copy.read_text())["profile"] == "mine", "what papermill -f passes on"
    capsys.readouterr()
    assert Run.open("mine").params == run.params
    assert capsys.readouterr().err == ""


def test_every_fault_is_named():
    with pytest.raises(RiceError) as error:
        load_params(str(FILES / "invalid" / "two_faults.yaml"))
    for key in ("data.per_class", "serve.max_batch_size", "serve.hots"):
        assert key in str(error.value)


def test_unknown_profile_names_the_nearest():
    with pytest.raises(RiceError, match="no such profile; did you mean smoke"):
        load_params("smoek")


def test_a_profile_by_path_in_a_folder_without_profiles_says_so(tmp_path):
    with pytest.raises(RiceError, match=rf"no such profile; {re.escape(str(tmp_path))} holds no \.yml files$"):
        load_params(str(tmp_path / "mine.yml"))
    (tmp_path / "others.yml").write_text("")
    with pytest.raises(RiceError, match=r"no such profile; known: others$"):
        load_params(str(tmp_path / "mine.yml"))


def test_overrides_are_merged_key_by_key_and_validated():
    params = load_params("smoke", {"finetune": {"epochs": 1}, "data": None})
    assert params.finetune.epochs == 1
    assert params.finetune.model == load_params("smoke").finetune.model
    assert params.data == load_params("smoke").data
    with pytest.raises(RiceError, match=r"finetune\.epoch: unknown key; did you mean epochs"):
        load_params("smoke", {"finetune": {"epoch": 1}})


def test_a_notebook_parameter_cell_left_alone_means_the_profile():
    names = [name for name in Params.model_fields if name != "profile"]
    assert Run.open("tiny", **dict.fromkeys(names)).params == load_params("tiny")


@pytest.mark.parametrize("file", named(PROFILES))
def test_papermill_passes_a_profile_on_unchanged(file):
    """`papermill -f` reads with PyYAML's loader and lays the sections over the same file."""
    values = yaml.safe_load(file.read_text())
    assert Run.open(values.pop("profile"), **values).params == load_params(file.stem)


@pytest.mark.parametrize("file", named(PROFILES))
def test_dvc_reads_what_we_read(file):
    """DVC reads YAML 1.2, PyYAML 1.1: a value that the two see differently would be tracked as another."""
    assert YAML(typ="safe").load(file.read_text()) == yaml.safe_load(file.read_text())


def test_fingerprint_differs_by_section():
    one, other = load_params("tiny"), load_params("tiny", {"finetune": {"epochs": 1}})
    assert one.fingerprint("data", "split") == other.fingerprint("data", "split")
    assert one.fingerprint("finetune") != other.fingerprint("finetune")
    assert one.fingerprint() != other.fingerprint()


def test_parse_overrides():
    assert parse_overrides(["finetune.epochs=1", "finetune.compile=true", "data.path=/x=y.zip"]) == {
        "finetune": {"epochs": 1, "compile": True},
        "data": {"path": "/x=y.zip"},
    }
    assert parse_overrides(["data.path=/Mein Reis é #1 (a&b) 100%/x.zip "]) == {
        "data": {"path": "/Mein Reis é #1 (a&b) 100%/x.zip"}
    }
    assert parse_overrides(["data.path='/x # y'"]) == {"data": {"path": "/x # y"}}
    assert parse_overrides(["benchmark.batch_sizes=[1, 2]"]) == {"benchmark": {"batch_sizes": [1, 2]}}
    assert parse_overrides(["finetune.learning_rate=1e-4"]) == {"finetune": {"learning_rate": 1e-4}}


@pytest.mark.parametrize(
    "assignments",
    [
        ["finetune.epochs"],
        ["=1"],
        ["a.b=[1"],
        ["a.b={c: 1, c: 2}"],
        ["a.b=2024-13-01"],
        ["finetune=1", "finetune.epochs=2"],
        ["finetune.epochs=2", "finetune=1"],
        ["finetune.epochs=2", "finetune.epochs.x=1"],
    ],
)
def test_wrong_assignments_are_one_line(assignments):
    with pytest.raises(RiceError, match="--set") as error:
        parse_overrides(assignments)
    assert "\n" not in str(error.value)


def test_a_section_and_its_keys_are_merged():
    expected = {"finetune": {"epochs": 2, "compile": True}}
    assert parse_overrides(["finetune={epochs: 1, compile: true}", "finetune.epochs=2"]) == expected
    assert parse_overrides(["finetune.epochs=1", "finetune={epochs: 2, compile: true}"]) == expected


@pytest.fixture
def profile(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text(
        "# what it is for\nprofile: mine\ndata: {source: synthetic, per_class: 4}   # few\n"
        "finetune:\n  epochs: 2   # short\n  learning_rate: 1.0e-3\n"
    )
    return file


def test_set_params_changes_values_and_keeps_comments(profile):
    before = profile.read_text()
    set_params(str(profile), ["finetune.epochs=5", "data.per_class=8"])
    assert profile.read_text() == before.replace("epochs: 2", "epochs: 5").replace("per_class: 4", "per_class: 8")


def test_set_params_adds_sections_and_small_numbers_that_every_reader_takes_for_numbers(profile):
    set_params(str(profile), ["finetune.learning_rate=0.00001", "split.test_fraction=0.5", "data.path=/a b.zip"])
    params = load_params(str(profile))
    assert params.finetune.learning_rate == 1e-5
    assert params.split.test_fraction == 0.5
    assert params.data.path == "/a b.zip"
    assert YAML(typ="safe").load(profile.read_text()) == yaml.safe_load(profile.read_text())


@pytest.mark.parametrize("wrong", ["finetune.epoch=5", "finetune.epochs=many", "finetune.epochs"])
def test_set_params_leaves_the_file_alone_where_a_value_is_wrong(profile, wrong):
    before = profile.read_text()
    with pytest.raises(RiceError):
        set_params(str(profile), ["data.per_class=8", wrong])
    assert profile.read_text() == before
    assert list(profile.parent.iterdir()) == [profile]


def test_set_params_command(profile):
    assert main(["--profile", str(profile), "seed=7"]) == 0
    assert load_params(str(profile)).seed == 7
