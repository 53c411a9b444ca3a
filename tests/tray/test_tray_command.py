"""`infer --grains`: what it tells, in every form, what it draws, and what it says of what it cannot read."""

from __future__ import annotations

import csv
import io
import json
from argparse import Namespace
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from support.trays import Setting, Tray, compose, matches, numbered, synthetic_grains

from rice_lib.backends.predictor import Predictor
from rice_lib.cli import tray as command
from rice_lib.common.classes import VARIETIES
from rice_lib.common.errors import RiceError
from rice_lib.infer import parser
from rice_lib.report.style import PALETTE
from rice_lib.tray.count import count, wilson
from rice_lib.tray.find import find
from rice_lib.tray.picture import COLOURS, LEAST_WIDTH
from rice_lib.tray.scale import FAR_MM, TRAINING, View, known
from rice_lib.tray.tell import NO_VARIETY, Told, tell

COUNT = 10


class BySize(Predictor):
    """Tells a grain by its area in the frame: a model that knows nothing but size, and needs no training."""

    labels = VARIETIES
    name, max_batch = "size", 64
    # of the model's frame: Jasmine, Karacadag, Arborio, Basmati, Ipsala by growing area
    LIMITS = (("Jasmine", 5000), ("Karacadag", 5600), ("Arborio", 6700), ("Basmati", 8500), ("Ipsala", 1e9))

    def __init__(self, decision=None) -> None:
        self.decision = decision
        self.seen: list[np.ndarray] = []
        self.told: list[str] = []

    def _forward(self, pixels: np.ndarray) -> np.ndarray:
        self.seen += list(pixels)
        areas = (pixels.max(axis=3) > 60).sum(axis=(1, 2))
        told = [next(name for name, limit in self.LIMITS if area < limit) for area in areas]
        self.told += told
        return np.array([[8.0 if name == own else 0.0 for name in self.labels] for own in told], np.float32)


class RefusesLarge:
    """A decision that refuses what fills more than a fifth of the frame."""

    def probabilities(self, logits):
        e = np.exp(logits.astype(np.float64))
        return e / e.sum(axis=1, keepdims=True)

    def measure(self, pixels):
        return np.array([(pixels.max(axis=2) > 60).mean()], np.float32)

    def reasons(self, logits, features):
        return ["unlike the training images (its size)" if m[0] > 0.2 else None for m in features]


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
    monkeypatch.setattr(command, "open_predictor", lambda spec, threads: own)
    return own


def arguments(*argv: str | Path) -> Namespace:
    return parser().parse_args(["--grains", "--model", "fake", *map(str, argv)])


def test_a_table_says_how_many_of_each(photograph, predictor, capsys):
    assert command.run(arguments(photograph)) == 0
    out, err = capsys.readouterr()
    assert out.startswith(f"{photograph}: {COUNT} grains told\n")
    rows = [line.split() for line in out.splitlines()[2:]]
    assert [row[0] for row in rows] == list(VARIETIES)
    assert sum(int(row[1]) for row in rows) == COUNT
    assert str(photograph.with_name("tray one.told.png")) in err


def test_jsonl_is_one_record_a_grain_and_a_summary(photograph, predictor, tray, capsys):
    assert command.run(arguments(photograph, "--format", "jsonl", "--mm-per-pixel", str(FAR_MM))) == 0
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
    told, unknown = summary["summary"]["told"], summary["summary"]["unknown"]
    assert (told + unknown, summary["summary"]["found"], summary["summary"]["mm_per_pixel"]) == (COUNT, COUNT, FAR_MM)


def test_csv_is_one_row_a_grain(photograph, predictor, tmp_path, capsys):
    output = tmp_path / "grains.csv"
    assert command.run(arguments(photograph, "--output", output)) == 0
    rows = list(csv.DictReader(io.StringIO(output.read_text())))
    assert len(rows) == COUNT
    assert [row["grain"] for row in rows] == [str(n) for n in range(1, COUNT + 1)]
    assert all(row["label"] in VARIETIES and float(row["confidence"]) == float(row[row["label"]]) for row in rows)
    assert all(row["length_mm"] == row["error"] == row["reason"] == "" for row in rows)
    assert capsys.readouterr().out == ""


def test_the_model_is_shown_each_grain_at_its_size(tray, predictor, photograph):
    command.run(arguments(photograph))
    found = find(tray.image).grains
    pairs = matches(tray.truth, numbered(found, tray.truth.shape))
    areas = [(pixels.max(axis=2) > 60).sum() * (250 / 224) ** 2 for pixels in predictor.seen]
    for true, own in pairs.items():
        assert areas[own - 1] == pytest.approx((tray.truth == true).sum(), rel=0.06)


def test_what_is_refused_is_listed_and_not_counted(photograph, predictor, capsys):
    predictor.decision = RefusesLarge()
    command.run(arguments(photograph))
    out = capsys.readouterr().out
    told, unknown = (
        int(out.split(" grains told, ")[0].split(": ")[-1]),
        int(out.split("told, ")[1].split(" unknown")[0]),
    )
    assert told + unknown == COUNT
    assert unknown > 0
    (line,) = [line for line in out.splitlines() if line.strip().startswith("unknown:")]
    assert len(line.rsplit(": ")[-1].split(", ")) == unknown
    rows = [line.split() for line in out.splitlines()[2:7]]
    assert sum(int(row[1]) for row in rows) == told
    command.run(arguments(photograph, "--no-reject"))
    assert f"{COUNT} grains told\n" in capsys.readouterr().out


def test_the_picture_is_drawn_in_the_colours_of_the_report(photograph, predictor, tray):
    before = photograph.read_bytes()
    command.run(arguments(photograph))
    picture = np.asarray(Image.open(photograph.with_name("tray one.told.png")))
    assert picture.shape[1] == max(tray.image.shape[1], LEAST_WIDTH)
    below = round(tray.image.shape[0] * picture.shape[1] / tray.image.shape[1])  # where the legend begins
    shown = {name: (picture == [int(c[i : i + 2], 16) for i in (1, 3, 5)]).all(axis=2) for name, c in PALETTE.items()}
    told = set(predictor.told)
    for name, where in shown.items():
        on_tray = where[:below].sum()
        assert (on_tray > 200) == (name in told)
        assert where[below:].sum() > 100  # the legend's swatch
    assert list(PALETTE.values()) == list(COLOURS)
    assert photograph.read_bytes() == before


def test_a_picture_of_an_earlier_run_is_no_input(photograph, predictor, capsys):
    assert command.run(arguments(photograph.parent)) == 0
    assert command.run(arguments(photograph.parent)) == 0
    capsys.readouterr()
    assert command.run(arguments(photograph.with_name("tray one.told.png"))) == 1
    assert "is a picture that an earlier run drew" in capsys.readouterr().out


def test_a_bad_tray_is_one_line_and_the_others_are_told(photograph, predictor, tmp_path, capsys):
    blank, text = tmp_path / "blank.png", tmp_path / "text.jpg"
    Image.new("RGB", (400, 300), (90, 90, 90)).save(blank)
    text.write_text("<html>")
    missing = tmp_path / "missing.jpg"
    assert command.run(arguments(blank, text, missing, photograph, "--format", "jsonl")) == 1
    records = list(map(json.loads, capsys.readouterr().out.splitlines()))
    errors = {Path(r["path"]).name: r["error"] for r in records if "error" in r}
    assert errors.keys() == {"blank.png", "text.jpg", "missing.jpg"}
    assert "nothing lies on the ground" in errors["blank.png"]
    assert sum("grain" in r for r in records) == COUNT
    assert not blank.with_name("blank.told.png").exists()


def test_no_parquet(photograph, predictor, tmp_path):
    with pytest.raises(RiceError, match="take csv or jsonl"):
        command.run(arguments(photograph, "--output", tmp_path / "told.parquet"))


def test_a_coin_gives_the_scale_and_is_no_grain(tray, predictor, tmp_path, capsys):
    image = np.vstack([tray.image, np.full((400, tray.image.shape[1], 3), 16, np.uint8)])
    cv2.circle(image, (400, 850), 140, (170, 150, 110), -1, cv2.LINE_AA)
    path = tmp_path / "coin.png"
    Image.fromarray(image).save(path)
    assert command.run(arguments(path, "--reference-mm", str(FAR_MM * 280), "--format", "jsonl")) == 0
    *grains, summary = map(json.loads, capsys.readouterr().out.splitlines())
    assert summary["summary"]["mm_per_pixel"] == pytest.approx(FAR_MM, rel=0.01)
    assert len(grains) == COUNT
    assert all(abs(r["y"] - 850) > 100 for r in grains)


def test_without_a_coin_one_line_says_so(photograph, predictor, capsys):
    assert command.run(arguments(photograph, "--reference-mm", "23.25")) == 1
    assert "no round reference object" in capsys.readouterr().err


def test_grains_of_another_scale_are_warned_of(tray, predictor, tmp_path, capsys):
    path = tmp_path / "large.png"
    Image.fromarray(cv2.resize(tray.image, None, fx=1.7, fy=1.7)).save(path)
    command.run(arguments(path))
    assert "fit no variety at this scale" in capsys.readouterr().err


def test_at_two_scales_a_variety_is_told_at_its_own():
    image = np.full((400, 400, 3), 15, np.uint8)
    cv2.ellipse(image, ((200.0, 200.0), (190.0, 90.0), 0), (230, 230, 230), -1)
    (grain,) = find(image).grains
    model, gain = BySize(), np.ones(1)

    def one(*views: View) -> Told:
        return tell(model, image, [grain], gain, views)[0]

    assert one(*TRAINING.views).label == "Ipsala"
    some, rest = ("Basmati", "Ipsala"), ("Arborio", "Jasmine", "Karacadag")
    assert one(View(1.0, some), View(0.8, rest)).label == "Ipsala"
    assert one(View(1.0, ("Karacadag", "Arborio")), View(0.5, ("Jasmine", *some))).label == "Jasmine"
    assert one(View(1.0, rest), View(0.5, some)).reason == NO_VARIETY
    assert tell(model, image, [grain], gain, [View(1.0, rest), View(0.5, some)], reject=False)[0].reason is None


def test_at_two_scales_a_refusal_at_one_leaves_the_other():
    image = np.full((400, 400, 3), 15, np.uint8)
    cv2.ellipse(image, ((200.0, 200.0), (190.0, 90.0), 0), (230, 230, 230), -1)
    grains = find(image).grains
    views = known(FAR_MM).views
    told = tell(
        BySize(RefusesLarge()),
        image,
        grains,
        np.ones(1),
        [View(0.7, views[0].varieties), View(1.4, views[1].varieties)],
    )
    assert told[0].label == "Karacadag"
    both = tell(
        BySize(RefusesLarge()),
        image,
        grains,
        np.ones(1),
        [View(1.2, views[0].varieties), View(1.4, views[1].varieties)],
    )
    assert both[0].reason == "unlike the training images (its size)"


@pytest.mark.parametrize(("k", "n"), [(0, 0), (0, 10), (10, 10), (3, 40), (499, 500)])
def test_the_interval_is_the_one_of_the_evaluation(k, n):
    assert wilson(k, n) == pytest.approx(evaluate.wilson(k, n), abs=1e-9)


def test_shares_are_of_what_is_told():
    told = [Told({"A": 0.9, "B": 0.1})] * 3 + [Told({"A": 0.2, "B": 0.8})] + [Told({"A": 1.0, "B": 0.0}, "a stone")] * 2
    result = count(told, ("A", "B"), cut=5)
    assert (result.told, result.unknown, result.cut) == (4, 2, 5)
    assert [(own.variety, own.count, own.share) for own in result.shares] == [("A", 3, 0.75), ("B", 1, 0.25)]


def test_a_ground_brighter_than_its_grains_is_warned_of(photograph, predictor, tmp_path, capsys):
    command.run(arguments(photograph))
    assert "the ground is brighter" not in capsys.readouterr().err
    paper = tmp_path / "paper.png"
    Image.fromarray(compose(synthetic_grains(COUNT), Setting(ground="paper", shape=(650, 850)), 3).image).save(paper)
    command.run(arguments(paper))
    assert f"warning: {paper}: the ground is brighter than the grains" in capsys.readouterr().err
