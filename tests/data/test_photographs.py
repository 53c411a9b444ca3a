"""Photographs of many grains, cut into frames: what is cut, what is left out, and at what scale."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support.trays import BySize, Setting, compose, synthetic_grains, with_coin

from rice_lib.common.errors import RiceError
from rice_lib.common.files import read_json
from rice_lib.contract.decision import Decision, ImageScale
from rice_lib.contract.decode import decode
from rice_lib.data import photographs
from rice_lib.data.photographs import ABOUT, COLUMNS, FRAME_MM, GRAINS, collect, cut
from rice_lib.tray.analyse import analyse

COIN_MM, COIN_PX = 20.0, 200
GRAINS_EACH = 8


def photograph(file: Path, seed: int, coin: bool = True, scale: float = 1.0) -> np.ndarray:
    """Save a tray of eight generated grains, with a coin of 20 mm below them; a pixel is 0.1 mm at scale 1."""
    tray = compose(synthetic_grains(GRAINS_EACH), Setting("blue", shape=(700, 900), scale=scale), seed).image
    picture = with_coin(tray, COIN_PX * scale) if coin else tray
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(file)
    return picture


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / GRAINS).open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_grain_becomes_a_frame_at_one_scale_whatever_the_distance(tmp_path):
    for seed, scale in enumerate((1.0, 0.7)):
        photograph(tmp_path / "in" / "Riz rond" / f"IMG {seed}.png", 7, scale=scale)
    cuttings = cut(collect(tmp_path / "in"), tmp_path / "out", reference_mm=COIN_MM)
    assert [len(cutting.grains) for cutting in cuttings] == [GRAINS_EACH] * 2
    assert [c.mm_per_pixel for c in cuttings] == pytest.approx([0.1, 0.1 / 0.7], rel=0.02)
    near, far = np.array([[float(row["length_mm"]) for row in rows(tmp_path / "out")]]).reshape(2, -1)
    assert sorted(near) == pytest.approx(sorted(far), rel=0.03)
    assert read_json(tmp_path / "out" / ABOUT)["scale"] == {"unit": "mm", "per_pixel": FRAME_MM}
    first = rows(tmp_path / "out")[0]
    assert tuple(first) == COLUMNS
    assert (first["path"], first["photograph"]) == ("Riz rond/IMG 0-001.png", "Riz rond/IMG 0.png")
    assert float(first["area_mm2"]) == pytest.approx(float(first["area_px"]) * cuttings[0].mm_per_pixel ** 2, rel=0.01)
    assert (tmp_path / "out" / "Riz rond" / "IMG 0.png.annotated.png").is_file()


def test_a_frame_is_what_infer_shows_to_the_model(tmp_path):
    picture = photograph(tmp_path / "in" / "a" / "tray.png", 3)
    cut(collect(tmp_path / "in"), tmp_path / "out", reference_mm=COIN_MM)
    model = BySize(Decision(scale=ImageScale("mm", FRAME_MM)))
    analyse(model, "tray.png", picture, reference_mm=COIN_MM)
    frames = [decode(tmp_path / "out" / row["path"]) for row in rows(tmp_path / "out")]
    np.testing.assert_array_equal(frames, model.seen)


def test_without_a_scale_one_is_chosen_for_the_set(tmp_path):
    for seed in range(2):
        photograph(tmp_path / "in" / "a" / f"{seed}.png", seed, coin=False)
    cut(collect(tmp_path / "in"), tmp_path / "out")
    scale = ImageScale(**photographs.read_about(tmp_path / "out")["scale"])
    lengths = [float(row["length_px"]) for row in rows(tmp_path / "out")]
    assert scale == ImageScale("px", pytest.approx(np.quantile(lengths, 0.99) / (0.8 * 250), rel=0.01))
    assert {row["length_mm"] for row in rows(tmp_path / "out")} == {""}


def test_a_photograph_without_the_reference_is_left_out_with_its_reason(tmp_path):
    photograph(tmp_path / "in" / "a" / "coin.png", 1)
    photograph(tmp_path / "in" / "a" / "none.png", 2, coin=False)
    (tmp_path / "in" / "a" / "text.jpg").write_text("no image")
    cut(collect(tmp_path / "in"), tmp_path / "out", reference_mm=COIN_MM)
    about = {entry["photograph"]: entry for entry in read_json(tmp_path / "out" / ABOUT)["photographs"]}
    assert about["a/coin.png"]["grains"] == GRAINS_EACH
    assert "no round reference object" in about["a/none.png"]["error"]
    assert about["a/text.jpg"]["error"]
    assert {row["photograph"] for row in rows(tmp_path / "out")} == {"a/coin.png"}


def test_what_is_unlike_the_other_objects_is_left_out(tmp_path):
    photograph(tmp_path / "in" / "a" / "tray.png", 1)
    (cutting,) = cut(collect(tmp_path / "in"), tmp_path / "out", mm_per_pixel=0.1)
    assert cutting.notes == ("1 much smaller or larger than the other objects",)  # the coin
    assert len(cutting.left_out) == 1
    assert len(rows(tmp_path / "out")) == GRAINS_EACH


def test_classes_and_sessions_are_the_folders(tmp_path):
    for place in ("set/a/1.png", "set/a/day 2/1.png", "set/b/2.png"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_bytes(b"")
    assert list(collect(tmp_path / "set")) == ["a/1.png", "a/day 2/1.png", "b/2.png"]
    assert collect(tmp_path / "set" / "b" / "2.png") == {"2.png": tmp_path / "set" / "b" / "2.png"}
    (tmp_path / "empty").mkdir()
    for nothing in ("absent", "empty"):
        with pytest.raises(RiceError, match="no photograph"):
            collect(tmp_path / nothing)


def test_photographs_that_differ_in_their_suffix_keep_apart(tmp_path):
    for suffix in ("png", "bmp"):
        photograph(tmp_path / "in" / "a" / f"1.{suffix}", 1, coin=False)
    cut(collect(tmp_path / "in"), tmp_path / "out", mm_per_pixel=0.1)
    assert {row["path"].rpartition("-")[0] for row in rows(tmp_path / "out")} == {"a/1.png", "a/1.bmp"}


def test_no_grain_at_all_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    Image.new("RGB", (300, 300), (90, 90, 90)).save(tmp_path / "a" / "empty.png")
    with pytest.raises(RiceError, match="no grains on 1 photographs; the first: nothing lies on"):
        cut(collect(tmp_path), tmp_path / "out")
