"""The prediction command, run as people run it."""

import csv
import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from support.models import tiny_onnx, write_grains

from rice_lib import infer
from rice_lib.backends import open as opening
from rice_lib.backends.open import open_predictor
from rice_lib.cli.infer_options import parser
from rice_lib.common.errors import RiceError
from rice_lib.contract.decode import decode
from rice_lib.contract.image_file import SUFFIXES
from rice_lib.contract.prediction import predict
from rice_lib.data.synthetic import VARIETIES
from rice_lib.predict.inputs import expand


def command(*arguments, **options):
    """The command in a process of its own."""
    line = [sys.executable, "-m", "rice_lib.infer", "--model", str(tiny_onnx()), *map(str, arguments)]
    return subprocess.run(line, capture_output=True, timeout=120, check=False, **options)


def records(capsys, *arguments, status=0):
    """What the command says as JSON lines, in this process."""
    assert infer.main([*map(str, arguments), "--model", str(tiny_onnx()), "--format", "jsonl"]) == status
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture
def images(tmp_path) -> list[Path]:
    return write_grains(tmp_path / "images", 7)


def test_records_are_in_the_order_of_the_inputs_whatever_fails(images, tmp_path, capsys):
    broken, text = tmp_path / "truncated.png", tmp_path / "page.jpg"
    broken.write_bytes(images[0].read_bytes()[:300])
    text.write_text("<html>")
    order = [images[3], broken, images[0], tmp_path / "none.jpg", text, images[6]]
    done = records(capsys, *order, "--batch-size", "2", status=1)
    assert [record["path"] for record in done] == list(map(str, order))
    assert [set(record) for record in done] == [
        {"path", "error"} if place in (1, 3, 4) else {"path", "label", "confidence", "scores"} for place in range(6)
    ]
    assert done[3]["error"] == "no such file"


def test_scores_are_the_models(images, capsys):
    with open_predictor(tiny_onnx()) as model:
        predictions = predict(model, np.stack([decode(file) for file in images]))
    for record, expected in zip(records(capsys, *images, "--batch-size", "3"), predictions, strict=True):
        assert record["label"] == expected.label
        assert record["confidence"] == pytest.approx(expected.confidence, abs=1e-5)
        assert list(record["scores"].values()) == sorted(record["scores"].values(), reverse=True)
        assert record["scores"] == pytest.approx(dict(expected.scores), abs=1e-5)


def test_top_k_keeps_the_likeliest(images, capsys):
    (record,) = records(capsys, images[0], "--top-k", "2")
    assert len(record["scores"]) == 2
    assert next(iter(record["scores"])) == record["label"]


def test_folders_are_walked_in_order_and_what_looks_like_an_image_is_never_passed_over(tmp_path, capsys):
    tree = tmp_path / "tree"
    for folder in ("b", "a/deep", "a"):
        write_grains(tree / folder, 1)
    (tree / "a" / "notes.txt").write_text("no")
    write_grains(tree / ".hidden", 1)
    (tree / "a" / "circle").symlink_to(tree)
    os.mkfifo(tree / "c.jpg")
    (tree / "d.jpg").symlink_to("not fetched")
    for suffix in SUFFIXES:
        (tree / f"e{suffix.upper()}").write_bytes((tree / "b" / "grain (0).png").read_bytes())
    done = records(capsys, tree, status=1)
    names = [Path(record["path"]).relative_to(tree).as_posix() for record in done]
    here = sorted(["c.jpg", "d.jpg", *(f"e{suffix.upper()}" for suffix in SUFFIXES)])
    assert names == [*here, *(f"{folder}/grain (0).png" for folder in ("a", "a/deep", "b"))]
    assert [record.get("error") for record in done if "error" in record] == [
        "is a named pipe, not a file",
        "a link to a file that is not there",
    ]
    assert {".heic", ".webp", ".tif", ".tiff", ".jfif", ".jpe", ".bmp", ".gif", ".avif", ".jp2"} < set(SUFFIXES)


def test_an_empty_folder_is_a_failed_input(tmp_path, capsys):
    (record,) = records(capsys, tmp_path, status=1)
    assert "holds no images" in record["error"]


AWKWARD = ["with space.png", "new\nline.png", 'quo"te,.png', "süß.png", os.fsdecode(b"latin-\xe9.png"), "-dash.png"]


def test_awkward_names_survive_every_format(images, tmp_path):
    folder = tmp_path / "awkward"
    folder.mkdir()
    for name in AWKWARD:
        (folder / name).write_bytes(images[0].read_bytes())
    names = b"\0".join(os.fsencode(folder / name) for name in AWKWARD) + b"\0"
    lines = command("-", "--null", "--format", "jsonl", input=names)
    assert lines.returncode == 0
    assert [json.loads(line)["path"] for line in lines.stdout.splitlines()] == [str(folder / n) for n in AWKWARD]
    rows = command("-", "--null", "--format", "csv", input=names).stdout.decode("utf-8", "surrogateescape")
    assert [row["path"] for row in csv.DictReader(io.StringIO(rows, newline=""))] == [str(folder / n) for n in AWKWARD]
    table = command("-", "--null", input=names).stdout.splitlines()
    assert len(table) == len(AWKWARD)
    assert b"new\\nline.png" in table[1]
    assert table[4].endswith(b"latin-\xe9.png")


def test_a_list_on_stdin_with_newlines_and_windows_of_input(images):
    names = "\n".join(map(str, images)).encode()
    done = command("-", "--format", "jsonl", input=names)
    assert [json.loads(line)["path"] for line in done.stdout.splitlines()] == list(map(str, images))


def test_a_nul_list_read_as_lines_says_what_is_wrong(images):
    done = command("-", "--format", "jsonl", input=b"\0".join(os.fsencode(file) for file in images))
    assert done.returncode == 1
    assert "--null" in json.loads(done.stdout)["error"]


def test_csv_has_a_column_a_variety_and_one_for_errors(images, tmp_path, capsys):
    infer.main([str(images[0]), str(tmp_path / "no.jpg"), "--model", str(tiny_onnx()), "--format", "csv"])
    good, bad = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(good) == ["path", "label", "confidence", *VARIETIES, "reason", "notes", "error"]
    assert sum(float(good[name]) for name in VARIETIES) == pytest.approx(1, abs=1e-5)
    assert (good["error"], bad["label"], bad["error"]) == ("", "", "no such file")


def test_table_is_for_people(images, tmp_path, capsys):
    assert infer.main([str(images[0]), str(tmp_path / "no.jpg"), "--model", str(tiny_onnx())]) == 1
    good, bad = capsys.readouterr().out.splitlines()
    assert good.split()[0] in VARIETIES
    assert good.endswith(f"%  {images[0]}")
    assert bad.endswith(f"{tmp_path / 'no.jpg'}: no such file")
    assert good.index(str(images[0])) == bad.index(str(tmp_path / "no.jpg"))


def test_output_is_complete_or_has_another_name(images, tmp_path, capsys):
    target = tmp_path / "out.csv"
    assert infer.main([*map(str, images), "--model", str(tiny_onnx()), "--output", str(target)]) == 0
    assert len(list(csv.reader(target.open()))) == 1 + len(images)
    assert not capsys.readouterr().out
    assert [file.name for file in tmp_path.glob("*out*")] == ["out.csv"]


def test_records_before_an_interruption_are_kept(images, tmp_path, monkeypatch, capsys):
    target = tmp_path / "out.jsonl"
    target.write_text("an older run\n")

    def interrupted(names):
        yield from expand(list(names)[:2])
        time.sleep(0.3)  # the two are predicted by now
        raise KeyboardInterrupt

    monkeypatch.setattr(infer, "expand", interrupted)
    with pytest.raises(KeyboardInterrupt):
        infer.main([*map(str, images), "--model", str(tiny_onnx()), "--output", str(target)])
    partial = tmp_path / "out.jsonl.partial"
    assert len(partial.read_text().splitlines()) == 3
    assert target.read_text() == "an older run\n"
    assert f"the 2 records so far are in {partial}" in capsys.readouterr().err
    with pytest.raises(RiceError, match="interrupted run; add --resume, or delete it"):
        infer.main([str(images[0]), "--model", str(tiny_onnx()), "--output", str(target)])
    assert len(partial.read_text().splitlines()) == 3


@pytest.mark.parametrize("arguments", [[], ["x.jpg", "--format", "xml"], ["x.jpg", "--top-k", "0"]])
def test_wrong_usage_is_status_2(arguments):
    with pytest.raises(SystemExit) as caught:
        infer.main(arguments)
    assert caught.value.code == 2


def test_a_missing_model_is_one_line_and_status_2(images):
    line = [sys.executable, "-m", "rice_lib.infer", str(images[0]), "--model", "none.onnx"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: none.onnx: no such model\n"


def test_the_default_model_is_the_wheels_then_the_checkouts(tmp_path, monkeypatch):
    package = tmp_path / "src" / "rice_lib"
    monkeypatch.setattr(opening, "__file__", str(package / "backends" / "open.py"))
    with pytest.raises(RiceError, match="name one with --model"):
        opening.default_model()
    for place in (tmp_path / "models", package / "_models"):
        place.mkdir(parents=True)
        (place / "rice-vit-tiny.onnx").touch()
        assert opening.default_model() == place / "rice-vit-tiny.onnx"


# --- the command line


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--mm-per-pixel", "0.1"], "it needs --grains"),
        (["--reference-mm", "20"], "it needs --grains"),
        (["--resume", "--output", "o.csv", "--explain", "maps"], "leave --explain out"),
        (["--resume"], "name the file"),
    ],
)
def test_options_that_lack_another_are_one_line(arguments, why):
    with pytest.raises(RiceError, match=why) as caught:
        infer.main(["x.jpg", *arguments])
    assert caught.value.status == 2
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--grains", "--mm-per-pixel", "0.1", "--reference-mm", "20"],
        ["--explain", "maps", "--grains"],
        ["--engine", "ray", "--grains"],
        ["--engine", "ray", "--explain", "maps"],
    ],
)
def test_options_that_do_not_go_together_are_an_error(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        infer.main(["x.jpg", *arguments])
    assert caught.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize("prog", ["rice infer", infer.PROG])
def test_the_help_fits_one_screen(prog):
    lines = parser(prog).format_help().splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 80
