"""`rice grains`: its output, its warnings, and what it will not write over."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image
from support.trays import Setting, compose, synthetic_grains

from rice_lib.cli.grains import main
from rice_lib.common.errors import RiceError


@pytest.fixture
def trays(tmp_path) -> Path:
    folder = tmp_path / "trays"
    (folder / "Basmati").mkdir(parents=True)
    Image.fromarray(compose(synthetic_grains(5), Setting(shape=(500, 700)), 1).image).save(folder / "Basmati" / "1.png")
    return folder


def test_photographs_become_folders_of_grains(trays, tmp_path, capsys):
    output = tmp_path / "out"
    assert main([str(trays), "--output", str(output), "--mm-per-pixel", "0.05"]) == 0
    assert len(list((output / "Basmati").glob("1-*.png"))) == 5
    printed = capsys.readouterr()
    assert printed.out == "Basmati/1.png: 5 grains\n"
    assert "warning" not in printed.err
    # its own output is made again, in full
    (trays / "Basmati" / "2.jpg").write_text("no image")
    assert main([str(trays), "--output", str(output)]) == 1
    printed = capsys.readouterr()
    assert "warning: no scale" in printed.err
    assert "Basmati/2.jpg: error: " in printed.out


def test_what_it_did_not_make_is_not_replaced(trays, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(RiceError, match="will not be replaced"):
        main([str(trays), "--output", str(tmp_path / "mine")])
    assert (tmp_path / "mine" / "thesis.txt").exists()
    for output in (trays, trays / "Basmati"):
        with pytest.raises(RiceError, match="will not be replaced"):
            main([str(trays), "--output", str(output)])


def test_nothing_is_left_where_it_fails(tmp_path):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "in" / "a" / "1.jpg").write_text("no image")
    with pytest.raises(RiceError, match="no grains on 1 photographs"):
        main([str(tmp_path / "in"), "--output", str(tmp_path / "out")])
    assert [path.name for path in tmp_path.iterdir()] == ["in"]
