"""Files that are complete or not there, and CSV that holds any name."""

from __future__ import annotations

import csv

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rice_lib.common.files import atomic_folder, atomic_path, read_csv, write_csv

HEADER = ("path", "n")


def test_an_interrupted_write_leaves_the_file_as_it_was(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("before")
    with pytest.raises(KeyboardInterrupt), atomic_path(file) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "before"
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


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
    assert read_csv(file, HEADER, comment=bool(comment)) == (comment, expected)
    assert file.read_bytes().count(b"\r\n") == 1, "lines end in a newline"
    if not comment:
        with file.open(newline="", encoding="utf-8") as stream:
            assert list(csv.reader(stream))[1:] == expected
        assert pd.read_csv(file, keep_default_na=False)["path"].tolist() == names


@given(st.lists(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=2, max_size=2)))
def test_csv_reads_back_what_was_written(tmp_path_factory, rows):
    file = tmp_path_factory.mktemp("csv") / "any.csv"
    write_csv(file, HEADER, rows)
    assert read_csv(file, HEADER)[1] == rows


@pytest.mark.parametrize(
    "text", ["", "path\na\n", "path,n\na\n", "path,n\na,1,2\n", 'path,n\n"a,1\n', "path,n\n\xff\n"]
)
def test_another_file_is_a_value_error(tmp_path, text):
    (tmp_path / "x.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"."):
        read_csv(tmp_path / "x.csv", HEADER)
