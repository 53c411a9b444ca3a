"""What a record holds, and how it is written."""

import csv
import io
import json

import pytest

from rice_lib.contract.prediction import Prediction
from rice_lib.contract.record import Record
from rice_lib.predict.writers import Writer, format_of

LABELS = ("Arborio", "Basmati")
PREDICTED = Record("a.jpg", Prediction({"Arborio": 0.25, "Basmati": 0.75}))
REJECTED = Record("b.jpg", Prediction({"Arborio": 0.9, "Basmati": 0.1}, "not a single grain"), ("first of 3 frames",))
FAILED = Record("c.jpg", error="no such file")


def written(form, *records, top_k=2) -> str:
    writer = Writer(form, LABELS, top_k)
    return writer.header + "".join(writer.text(writer.as_dict(record)) for record in records)


def test_a_record_with_an_error_has_no_label():
    assert (FAILED.label, FAILED.reason) == (None, None)


def test_scores_are_rounded_to_what_float32_holds():
    record = Record("x", Prediction({"a": 1 / 3, "b": 2 / 3}))
    assert record.as_dict(2) == {
        "path": "x",
        "label": "b",
        "confidence": 0.666667,
        "scores": {"b": 0.666667, "a": 0.333333},
    }


def test_a_rejected_image_is_unknown_without_confidence_and_says_why():
    predicted, rejected, failed = map(json.loads, written("jsonl", PREDICTED, REJECTED, FAILED).splitlines())
    assert predicted == {
        "path": "a.jpg",
        "label": "Basmati",
        "confidence": 0.75,
        "scores": {"Basmati": 0.75, "Arborio": 0.25},
    }
    assert rejected == {
        "path": "b.jpg",
        "label": "unknown",
        "confidence": None,
        "reason": "not a single grain",
        "scores": {"Arborio": 0.9, "Basmati": 0.1},
        "notes": ["first of 3 frames"],
    }
    assert failed == {"path": "c.jpg", "error": "no such file"}


def test_csv_rows_have_all_columns():
    rows = list(csv.reader(io.StringIO(written("csv", PREDICTED, REJECTED, FAILED), newline="")))
    assert rows == [
        ["path", "label", "confidence", "Arborio", "Basmati", "reason", "notes", "error"],
        ["a.jpg", "Basmati", "0.75", "0.25", "0.75", "", "", ""],
        ["b.jpg", "unknown", "", "0.9", "0.1", "not a single grain", "first of 3 frames", ""],
        ["c.jpg", "", "", "", "", "", "", "no such file"],
    ]


@pytest.mark.parametrize("top_k", [1, 2, 7])
def test_paths_begin_in_one_column_of_a_table(top_k):
    rows = written("table", PREDICTED, REJECTED, FAILED, top_k=top_k).splitlines()
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


@pytest.mark.parametrize("name", ['a\n\r",;.jpg', "\u2028\x85é.jpg", "\udce9\\.jpg"])
def test_any_name_survives(name):
    record = Record(name, PREDICTED.prediction)
    (row,) = list(csv.DictReader(io.StringIO(written("csv", record), newline="")))
    assert row["path"] == json.loads(written("jsonl", record))["path"] == name
    assert len(written("table", record).splitlines()) == 1
