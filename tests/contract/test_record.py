"""How results are written, and what is left of a file that was being written when its process was killed."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rice_lib.contract.record import Record
from rice_lib.predict.writers import Writer, csv_columns, format_of
from rice_lib.predict.resume import read_records, whole_records

LABELS = ("Arborio", "Basmati")
TOLD = Record("a.jpg", {"Arborio": 0.25, "Basmati": 0.75})
REFUSED = Record("b.jpg", {"Arborio": 0.9, "Basmati": 0.1}, reason="not a single grain", notes=("first of 3 frames",))
FAILED = Record("c.jpg", error="no such file")


def written(form, *results, top_k=2) -> str:
    stream = io.StringIO(newline="")
    writer = Writer(stream, form, LABELS, top_k)
    writer.begin()
    for result in results:
        writer.write(result)
    return stream.getvalue()


def test_a_refused_image_is_unknown_and_says_why():
    told, refused, failed = map(json.loads, written("jsonl", TOLD, REFUSED, FAILED).splitlines())
    assert told == {
        "path": "a.jpg",
        "label": "Basmati",
        "confidence": 0.75,
        "scores": {"Basmati": 0.75, "Arborio": 0.25},
    }
    assert refused == {
        "path": "b.jpg",
        "label": "unknown",
        "confidence": None,
        "reason": "not a single grain",
        "scores": {"Arborio": 0.9, "Basmati": 0.1},
        "notes": ["first of 3 frames"],
    }
    assert failed == {"path": "c.jpg", "error": "no such file"}


def test_csv_rows_have_all_columns():
    rows = list(csv.reader(io.StringIO(written("csv", TOLD, REFUSED, FAILED), newline="")))
    assert rows == [
        ["path", "label", "confidence", "Arborio", "Basmati", "reason", "notes", "error"],
        ["a.jpg", "Basmati", "0.75", "0.25", "0.75", "", "", ""],
        ["b.jpg", "unknown", "", "0.9", "0.1", "not a single grain", "first of 3 frames", ""],
        ["c.jpg", "", "", "", "", "", "", "no such file"],
    ]


@pytest.mark.parametrize("top_k", [1, 2, 7])
def test_paths_begin_in_one_column_of_a_table(top_k):
    rows = written("table", TOLD, REFUSED, FAILED, top_k=top_k).splitlines()
    assert len({row.index(f"{name}.jpg") for row, name in zip(rows, "abc", strict=True)}) == 1
    assert rows[0].startswith("Basmati  75.00%")
    assert rows[1].startswith("unknown ")
    assert rows[1].endswith("b.jpg  (first of 3 frames): not a single grain")
    assert rows[2].endswith("c.jpg: no such file")


@pytest.mark.parametrize(
    ("asked", "name", "form"),
    [(None, "a.jsonl", "jsonl"), (None, "a.CSV", "csv"), (None, "a.parquet", "parquet"), ("csv", "a.jsonl", "csv")],
)
def test_the_format_is_the_suffix_unless_asked_for(asked, name, form, tmp_path):
    assert format_of(asked, tmp_path / name) == form
    assert format_of(None, None) == "table"


names = st.text(st.sampled_from('a\n\r",;\u2028\x85é \udce9\\'), min_size=1, max_size=6)


@pytest.mark.parametrize("form", ["jsonl", "csv"])
@given(paths=st.lists(names, max_size=4), cut=st.integers(0, 400))
def test_whatever_byte_a_file_ends_at_its_whole_records_are_found(form, paths, cut):
    results = [Record(path, {"Arborio": 0.25, "Basmati": 0.75}) for path in paths]
    data = written(form, *results).encode("utf-8", "surrogateescape")
    ends = [len(written(form, *results[:count]).encode("utf-8", "surrogateescape")) for count in range(len(paths) + 1)]
    torn = data[: min(cut, len(data))]
    end = whole_records(io.BytesIO(torn), quoted=form == "csv")
    whole = max((count for count, at in enumerate(ends) if at <= len(torn)), default=None)
    assert end == (0 if whole is None else ends[whole])
    stream = io.TextIOWrapper(io.BytesIO(torn[:end]), "utf-8", "surrogateescape", newline="")
    assert [record["path"] for record in read_records(stream, form, LABELS)] == paths[: whole or 0]


@pytest.mark.parametrize(
    ("form", "text", "why"),
    [
        ("jsonl", "{}\n", "not a record"),
        ("jsonl", "nonsense\n", "Expecting value"),
        ("jsonl", "[1]\n", "not a record"),
        ("csv", "path,label\n", "other columns"),
        ("csv", "a.jpg,Arborio\n", "other columns"),
    ],
)
def test_what_is_no_record_is_refused(form, text, why):
    with pytest.raises(ValueError, match=why):
        list(read_records(io.StringIO(text, newline=""), form, LABELS))


def test_the_columns_have_no_doubles():
    assert len(set(csv_columns(LABELS))) == len(csv_columns(LABELS))
