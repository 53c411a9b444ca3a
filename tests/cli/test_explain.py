"""`rice infer --explain DIR`: a picture an input, named on stdout, by any model."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from PIL import Image
from support.models import tiny_checkpoint, tiny_onnx, write_grains

from rice_lib.backends.open import default_model
from rice_lib.common.errors import RiceError
from rice_lib.data.synthetic import VARIETIES
from rice_lib.infer import main


def explain(inputs, folder, model=None, *more) -> int:
    command = [*inputs, "--explain", folder, "--model", model or tiny_onnx(), "--threads", "1", *more]
    return main(list(map(str, command)))


@pytest.mark.parametrize("form", [tiny_onnx, tiny_checkpoint])
def test_explain_writes_a_picture_each_and_names_it(form, tmp_path, capsys):
    files = write_grains(tmp_path / "in", 5)
    other = write_grains(tmp_path / "other", 1)
    model = form()
    capsys.readouterr()  # the making of the model, where this test is the first to use it
    assert explain([*files, *other], tmp_path / "a" / "why", model) == 0
    names = [f"grain ({n}).why.png" for n in range(5)] + ["grain (0)-2.why.png"]
    assert sorted(os.listdir(tmp_path / "a" / "why")) == sorted(names)
    out, err = capsys.readouterr()
    assert [line.split("  ")[-1] for line in out.splitlines()] == list(map(str, [*files, *other]))
    assert all(line.split()[0] in VARIETIES for line in out.splitlines())
    note, *drawn = err.splitlines()
    assert "carries no rejection rule" in note
    assert [line.split(" is drawn in ")[1] for line in drawn] == [str(tmp_path / "a/why" / name) for name in names]
    with Image.open(tmp_path / "a" / "why" / names[0]) as picture:
        assert picture.width == 468


def test_explain_names_bad_inputs_and_continues(tmp_path, capsys):
    (good,) = write_grains(tmp_path, 1)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    assert explain([bad, tmp_path / "none.jpg", good], tmp_path / "why", None, "--no-reject") == 1
    first, second, third = capsys.readouterr().out.splitlines()
    assert str(bad) in first
    assert "none.jpg: no such file" in second
    assert str(good) in third
    assert len(list((tmp_path / "why").iterdir())) == 1


def test_explain_does_not_explain_its_own_pictures(tmp_path):
    folder = tmp_path / "photos"
    write_grains(folder, 2)
    for _ in range(2):
        assert explain([folder], folder) == 0
    assert len(list(folder.iterdir())) == 4


def test_a_long_name_is_cut(tmp_path):
    (file,) = write_grains(tmp_path, 1)
    long = file.rename(tmp_path / ("é" * 120 + ".png"))
    assert explain([long], tmp_path / "why") == 0
    assert len(os.listdir(tmp_path / "why")) == 1


def test_a_rejected_image_is_drawn_with_its_reason(tmp_path, capsys):
    Image.new("RGB", (224, 224), (90, 120, 60)).save(tmp_path / "green.png")
    assert explain([tmp_path / "green.png"], tmp_path / "why", default_model()) == 0
    out, _ = capsys.readouterr()
    assert out.startswith("unknown")
    assert "not a single grain" in out
    assert os.listdir(tmp_path / "why") == ["green.why.png"]


def test_the_records_go_to_a_file_in_any_format(tmp_path):
    files = write_grains(tmp_path, 2)
    assert explain(files, tmp_path / "why", None, "--output", tmp_path / "out.jsonl") == 0
    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [record["path"] for record in records] == list(map(str, files))


def test_a_model_that_is_not_there_leaves_no_folder(tmp_path):
    with pytest.raises(RiceError, match="no such model"):
        explain(["a.jpg"], tmp_path / "why", tmp_path / "none.onnx")
    assert not (tmp_path / "why").exists()


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RiceError, match="cannot be written"):
        explain(write_grains(tmp_path, 1), tmp_path / "file")


def test_explaining_by_an_onnx_file_imports_neither_torch_nor_onnx(tmp_path):
    (file,) = write_grains(tmp_path, 1)
    code = (
        "import sys; from rice_lib.infer import main; "
        "status = main(sys.argv[1:]); "
        "print([m for m in ('onnx', 'torch', 'matplotlib', 'scipy', 'cv2') if m in sys.modules], status)"
    )
    command = [sys.executable, "-c", code, str(file), "--model", str(tiny_onnx()), "--explain", str(tmp_path / "why")]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[] 0"
