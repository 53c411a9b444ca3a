"""Files that are complete or not there, and CSV that holds any name."""

from __future__ import annotations

import csv
import errno
import os
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from rice_lib.common.errors import RiceError
from rice_lib.common.files import atomic_folder, atomic_path, write_csv, write_text

HEADER = ("path", "n")


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_path(file) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_full_disk_names_the_folder_and_leaves_the_old_one(tmp_path):
    folder = tmp_path / "cut"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(RiceError, match=r"cut: cannot be written \(No space left"), atomic_folder(folder):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ConnectionResetError), atomic_folder(folder):
        raise ConnectionResetError  # from a download: not the folder's fault
    assert [file.name for file in tmp_path.rglob("*")] == ["cut", "old"]


def test_a_folder_takes_the_place_of_another_when_it_is_complete(tmp_path):
    folder = tmp_path / "model"
    with atomic_folder(folder) as fresh:
        (fresh / "a").touch()
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as fresh:
        raise KeyboardInterrupt
    with atomic_folder(folder) as fresh:
        assert [path.name for path in folder.iterdir()] == ["a"]
        (fresh / "b").touch()
    assert [path.name for path in folder.iterdir()] == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("comment", ["", "# made of something"])
def test_any_name_survives_csv_here_and_in_other_readers(tmp_path, comment):
    """`csv.writer` quotes a carriage return only where lines end with one; a reader then takes it for a line's end."""
    names = ["a\rb.jpg", "a\nb.jpg", "a\r\nb.jpg", 'a,"b".jpg', "\r", "", " a ", "ü.jpg"]
    rows = [(name, number) for number, name in enumerate(names)]
    file = tmp_path / "names.csv"
    write_csv(file, HEADER, rows, comment)
    expected = [[name, str(number)] for name, number in rows]
    assert file.read_bytes().count(b"\r\n") == 1, "lines end in a newline"
    by_pandas = partial(pd.read_csv, dtype=str, keep_default_na=False)
    for read in (lambda stream: list(csv.reader(stream))[1:], lambda stream: by_pandas(stream).values.tolist()):
        with file.open(newline="", encoding="utf-8") as stream:
            assert not comment or stream.readline() == f"{comment}\n"
            assert read(stream) == expected


@pytest.mark.parametrize("there", [True, False])
def test_a_link_stays_and_its_target_is_replaced(there, tmp_path):
    (tmp_path / "place").mkdir()
    target, link = tmp_path / "place" / "target.txt", tmp_path / "link.txt"
    link.symlink_to("place/target.txt")
    if there:
        target.write_text("old")
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["link.txt", "place", "target.txt"]


def test_what_is_no_ordinary_file_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path(os.devnull)):
        with pytest.raises(RiceError, match=r"cannot be written \(not an ordinary file\)"):
            write_text(path, "records")
    assert pipe.is_fifo()
    assert Path(os.devnull).is_char_device()


def test_the_longest_name_there_can_be_is_written(tmp_path):
    file = tmp_path / ("x" * 251 + ".csv")
    write_text(file, "all")
    assert file.read_text() == "all"


@pytest.mark.parametrize(
    ("name", "why"),
    [("folder", "Is a directory"), ("x" * 256, "File name too long"), ("file/out", "Not a directory|File exists")],
)
def test_what_cannot_be_written_is_one_line(name, why, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(RiceError, match=rf"{name}: cannot be written \(({why})\)"):
        write_text(tmp_path / name, "text")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]
