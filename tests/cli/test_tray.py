"""`rice infer --grains`: what it writes, in every form, what it draws, and what it says of what it cannot read."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.trays import BySize, RejectsAll, RejectsLarge, Setting, Tray, compose, matches, numbered, synthetic_grains

from rice_lib import infer
from rice_lib.common.colours import COLOURS
from rice_lib.common.errors import RiceError
from rice_lib.contract.decision import Decision
from rice_lib.contract.decode import ANNOTATED
from rice_lib.data.listing import is_image_name
from rice_lib.data.synthetic import VARIETIES
from rice_lib.infer import main
from rice_lib.predict.inputs import expand
from rice_lib.tray.find import find
from rice_lib.tray.picture import MIN_WIDTH
from rice_lib.tray.scale import FAR_MM

COUNT = 10


@pytest.fixture(scope="module")
def tray() -> Tray:
    return compose(synthetic_grains(COUNT), Setting(shape=(650, 850), touching=0.2), 3)


@pytest.fixture
def photograph(tray, tmp_path) -> Path:
    path = tmp_path / "tray one.png"
    Image.fromarray(tray.image).save(path)
    return path


@pytest.fixture
def predictor(monkeypatch) -> BySize:
    own = BySize()
    monkeypatch.setattr(infer, "open_predictor", lambda spec, threads: own)
    return own


def command(*argv: str | Path) -> int:
    return main(["--grains", "--model", "fake", *map(str, argv)])


def test_a_table_says_how_many_of_each(photograph, predictor, capsys):
    assert command(photograph) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{photograph}: {COUNT} grains classified\n")
    rows = [line.split() for line in out.splitlines()[2:7]]
    assert [row[0] for row in rows] == list(VARIETIES)
    assert sum(int(row[1]) for row in rows) == COUNT
    assert str(photograph.with_name("tray one.png.annotated.png")) in err


def test_jsonl_is_one_record_a_grain_and_a_summary(photograph, predictor, tray, capsys):
    assert command(photograph, "--format", "jsonl", "--mm-per-pixel", str(FAR_MM)) == 0
    *grains, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert [record["grain"] for record in grains] == list(range(1, COUNT + 1))
    assert {record["path"] for record in (*grains, summary)} == {str(photograph)}
    found = find(tray.image).grains
    for record, grain in zip(grains, found, strict=True):
        assert (record["x"], record["y"]) == pytest.approx(grain.centre, abs=0.06)
        assert record["length_mm"] == pytest.approx(grain.length * FAR_MM, abs=0.001)
        assert sum(record["scores"].values()) <= 1.00001
    counts = {name: own["count"] for name, own in summary["summary"]["varieties"].items()}
    assert counts == {name: sum(r["label"] == name for r in grains) for name in VARIETIES}
    classified, unknown = summary["summary"]["told"], summary["summary"]["unknown"]
    assert (classified + unknown, summary["summary"]["found"], summary["summary"]["mm_per_pixel"]) == (
        COUNT,
        COUNT,
        FAR_MM,
    )


def test_csv_is_one_row_a_grain(photograph, predictor, tmp_path, capsys):
    output = tmp_path / "grains.csv"
    assert command(photograph, "--output", output) == 0
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert len(rows) == COUNT
    assert [row["grain"] for row in rows] == [str(n) for n in range(1, COUNT + 1)]
    assert all(row["label"] in VARIETIES and float(row["confidence"]) == float(row[row["label"]]) for row in rows)
    assert all(row["length_mm"] == row["error"] == row["reason"] == "" for row in rows)
    assert capsys.readouterr().out == ""


def test_the_model_is_shown_each_grain_at_its_size(tray, predictor, photograph):
    command(photograph)
    found = find(tray.image).grains
    pairs = matches(tray.truth, numbered(found, tray.truth.shape))
    areas = [(pixels.max(axis=2) > 60).sum() * (250 / 224) ** 2 for pixels in predictor.seen]
    for true, own in pairs.items():
        assert areas[own - 1] == pytest.approx((tray.truth == true).sum(), rel=0.06)


def test_what_is_rejected_is_listed_and_not_counted(photograph, predictor, capsys):
    predictor.decision = Decision(rejection=RejectsLarge())
    command(photograph)
    out = capsys.readouterr().out
    classified = int(out.split(" grains classified, ")[0].split(": ")[-1])
    unknown = int(out.split("classified, ")[1].split(" unknown")[0])
    assert classified + unknown == COUNT
    assert unknown > 0
    (line,) = [line for line in out.splitlines() if line.strip().startswith("unknown:")]
    assert len(line.rsplit(": ")[-1].split(", ")) == unknown
    rows = [line.split() for line in out.splitlines()[2:7]]
    assert sum(int(row[1]) for row in rows) == classified
    command(photograph, "--no-reject")
    assert f"{COUNT} grains classified\n" in capsys.readouterr().out


def test_the_picture_is_drawn_in_the_colours_of_the_report(photograph, predictor, tray):
    before = photograph.read_bytes()
    command(photograph)
    picture = np.asarray(Image.open(photograph.with_name("tray one.png.annotated.png")))
    assert picture.shape[1] == max(tray.image.shape[1], MIN_WIDTH)
    below = round(tray.image.shape[0] * picture.shape[1] / tray.image.shape[1])  # where the legend begins
    colours = dict(zip(VARIETIES, COLOURS, strict=False))
    shown = {name: (picture == [int(c[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2) for name, c in colours.items()}
    for name, where in shown.items():
        on_tray = where[:below].sum()
        assert (on_tray > 200) == (name in predictor.predicted)
        assert where[below:].sum() > 100  # the legend's swatch
    assert photograph.read_bytes() == before


def test_a_picture_of_an_earlier_run_is_no_input(photograph, predictor, capsys):
    assert command(photograph.parent) == 0
    assert command(photograph.parent) == 0
    capsys.readouterr()
    assert command(photograph.with_name("tray one.png.annotated.png")) == 1
    assert "is an annotated picture" in capsys.readouterr().out


def test_a_bad_tray_is_one_line_and_the_others_are_classified(photograph, predictor, tmp_path, capsys):
    blank, text = tmp_path / "blank.png", tmp_path / "text.jpg"
    Image.new("RGB", (400, 300), (90, 90, 90)).save(blank)
    text.write_text("<html>")
    missing = tmp_path / "missing.jpg"
    assert command(blank, text, missing, photograph, "--format", "jsonl") == 1
    records = list(map(json.loads, capsys.readouterr().out.splitlines()))
    errors = {Path(r["path"]).name: r["error"] for r in records if "error" in r}
    assert errors.keys() == {"blank.png", "text.jpg", "missing.jpg"}
    assert "nothing lies on the background" in errors["blank.png"]
    assert sum("grain" in r for r in records) == COUNT
    assert not blank.with_name("blank.png.annotated.png").exists()


def test_no_parquet(photograph, predictor, tmp_path):
    with pytest.raises(RiceError, match="take csv or jsonl"):
        command(photograph, "--output", tmp_path / "grains.parquet")


def test_a_coin_gives_the_scale_and_is_no_grain(tray, predictor, tmp_path, capsys):
    image = np.vstack([tray.image, np.full((400, tray.image.shape[1], 3), 16, np.uint8)])
    cv2.circle(image, (400, 850), 140, (170, 150, 110), -1, cv2.LINE_AA)
    path = tmp_path / "coin.png"
    Image.fromarray(image).save(path)
    assert command(path, "--reference-mm", str(FAR_MM * 280), "--format", "jsonl") == 0
    *grains, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert summary["summary"]["mm_per_pixel"] == pytest.approx(FAR_MM, rel=0.01)
    assert len(grains) == COUNT
    assert all(abs(r["y"] - 850) > 100 for r in grains)


def test_without_a_coin_one_line_says_so(photograph, predictor, capsys):
    assert command(photograph, "--reference-mm", "23.25") == 1
    assert "no round reference object" in capsys.readouterr().err


def test_grains_of_another_scale_are_warned_of(tray, predictor, tmp_path, capsys):
    path = tmp_path / "large.png"
    Image.fromarray(cv2.resize(tray.image, None, fx=1.7, fy=1.7)).save(path)
    command(path)
    assert "fit no variety at this scale" in capsys.readouterr().err


def test_a_background_brighter_than_its_grains_is_warned_of(photograph, predictor, tmp_path, capsys):
    command(photograph)
    assert "the background is brighter" not in capsys.readouterr().err
    paper = tmp_path / "paper.png"
    Image.fromarray(compose(synthetic_grains(COUNT), Setting(background="paper", shape=(650, 850)), 3).image).save(
        paper
    )
    command(paper)
    assert f"warning: {paper}: the background is brighter than the grains" in capsys.readouterr().err


def test_every_tray_gets_its_record_whatever_happens_to_one(photograph, predictor, tmp_path, capsys, monkeypatch):
    faults = iter(
        [OSError("disk gone"), RiceError("server gone"), cv2.error("a bug\nof two lines"), ValueError("a bug")]
    )

    def fail(self, pixels):
        raise next(faults)

    trays = [photograph]
    for number in range(4):
        trays.append(tmp_path / f"{number}.png")
        trays[-1].write_bytes(photograph.read_bytes())
    forward = BySize._forward
    monkeypatch.setattr(BySize, "_forward", lambda self, pixels: fail(self, pixels) if fails else forward(self, pixels))
    for fails in (True, False):
        status = command(*trays[1:], "--format", "jsonl", "--output", tmp_path / "grains.jsonl")
        records = [json.loads(line) for line in (tmp_path / "grains.jsonl").read_text().splitlines()]
        assert len({record["path"] for record in records}) == 4
        assert (status, sum("error" in record for record in records)) == ((1, 4) if fails else (0, 0))
        if fails:
            errors = [record["error"] for record in records]
            assert errors[:2] == ["disk gone", "server gone"]
            assert "cannot be analysed (ValueError: a bug)" in errors
            assert not any("\n" in error for error in errors)
    capsys.readouterr()


def test_a_card_s_edge_does_not_end_the_run(photograph, predictor, tmp_path, capsys):
    edge = np.full((300, 3600, 3), 20, np.uint8)
    edge[150:153, 100:3500] = 220
    path = tmp_path / "a.png"
    Image.fromarray(edge).save(path)
    assert command(path, photograph, "--format", "jsonl") == 0
    records = list(map(json.loads, capsys.readouterr().out.splitlines()))
    (line,) = [record for record in records if record["path"] == str(path) and "grain" in record]
    assert line["length_px"] > 3000
    assert sum(record["path"] == str(photograph) and "grain" in record for record in records) == COUNT


def test_pictures_do_not_collide_and_are_no_photographs(photograph, predictor, tmp_path):
    folder = tmp_path / "trays"
    folder.mkdir()
    image = Image.open(photograph)
    trays = [folder / "a.jpg", folder / "a.png"]
    for path in trays:
        image.save(path)
    assert command(folder) == 0
    assert {path.name for path in folder.iterdir()} == {
        "a.jpg", "a.jpg.annotated.png", "a.png", "a.png.annotated.png",
    }  # fmt: skip
    (folder / "grain.why.png").write_bytes(photograph.read_bytes())
    assert list(expand([str(folder)])) == list(map(str, trays))
    assert not any(map(is_image_name, ("Arborio/a.jpg.ANNOTATED.png", "Arborio/a.why.png")))


def test_csv_quotes_a_carriage_return_in_a_name(photograph, predictor, tmp_path, capsys):
    path = tmp_path / "two\rlines.png"
    path.write_bytes(photograph.read_bytes())
    command(path, tmp_path / "no\rfile.png", "--format", "csv")
    out = capsys.readouterr().out
    rows = list(csv.DictReader(io.StringIO(out, newline="")))
    assert [row["path"] for row in rows] == [str(path)] * COUNT + [str(tmp_path / "no\rfile.png")]
    assert f'"{path}",1,' in out


@pytest.mark.parametrize("form", ["jsonl", "csv", "txt"])
def test_an_interrupted_run_resumes_after_the_trays_it_analysed(photograph, predictor, tmp_path, form, monkeypatch):
    trays = [photograph, tmp_path / "not there.png", tmp_path / "second\r.png"]
    trays[2].write_bytes(photograph.read_bytes())
    once, output = tmp_path / f"once.{form}", tmp_path / f"out.{form}"
    assert command(*trays, "--output", once) == 1

    def two(names):
        yield from islice(expand(names), 2)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(infer, "expand", two)
        with pytest.raises(KeyboardInterrupt):
            command(*trays, "--output", output)
    assert not output.exists()
    with pytest.raises(RiceError, match="was begun with grains"):
        command(*trays, "--output", output, "--resume", "--mm-per-pixel", 0.1)
    with pytest.raises(RiceError, match="another model"):
        main([*map(str, trays), "--output", str(output), "--resume"])
    picture = Path(f"{photograph}{ANNOTATED}")
    picture.unlink()
    assert command(*trays, "--output", output, "--resume") == 1
    assert not picture.exists(), "the first tray was analysed again"
    assert output.read_bytes() == once.read_bytes()
    assert main(["--grains", *map(str, trays), "--output", str(output), "--resume"]) == 1, "already complete"


def test_trays_need_no_training_libraries():
    code = (
        "import sys, rice_lib.infer, rice_lib.cli.tray, rice_lib.tray.analyse, rice_lib.tray.picture; "
        "print(*{'torch', 'sklearn', 'pandas', 'scipy', 'matplotlib'} & sys.modules.keys())"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


def test_the_sheet_is_in_every_form_and_in_the_picture(photograph, predictor, tmp_path, capsys):
    predictor.decision = Decision(rejection=RejectsAll())  # measurements need no model
    command(photograph, "--mm-per-pixel", "0.05")
    table = capsys.readouterr().out
    for line in ("  length, mm ", "  length/width ", "  broken ", "  head rice ", "no proof of a variety's identity"):
        assert line in table
    before = np.asarray(Image.open(f"{photograph}.annotated.png"))
    command(photograph, "--format", "jsonl", "--broken-below", "0.95")
    *grains, summary = map(json.loads, capsys.readouterr().out.splitlines())
    quality = summary["summary"]["quality"]
    assert (quality["unit"], quality["broken_below"]) == ("px", 0.95)
    assert quality["broken"]["value"] == np.mean([record["broken"] for record in grains]) > 0
    assert {record["label"] for record in grains} == {"unknown"}
    command(photograph, "--output", tmp_path / "grains.csv")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "grains.csv").read_text())))
    assert {row["broken"] for row in rows} <= {"True", "False"}
    assert set(rows[0]) > {"colour", "broken"}
    assert (np.asarray(Image.open(f"{photograph}.annotated.png")) != before).any()  # in pixels, not in mm
