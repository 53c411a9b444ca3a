"""Counts and shares of the varieties on a tray."""

from __future__ import annotations

from rice_lib.contract.decision import NOT_A_GRAIN, UNLIKE
from rice_lib.contract.prediction import Prediction
from rice_lib.tray.record import count, rejected_together


def test_shares_are_of_what_is_classified():
    predictions = [Prediction({"A": 0.9, "B": 0.1})] * 3 + [Prediction({"A": 0.2, "B": 0.8})]
    predictions += [Prediction({"A": 1.0, "B": 0.0}, "a stone")] * 2
    counts = count(predictions, ("A", "B"), cut=5)
    assert (counts.classified, counts.unknown, counts.cut) == (4, 2, 5)
    assert [(own.variety, own.count, own.share) for own in counts.shares] == [("A", 3, 0.75), ("B", 1, 0.25)]
    assert str(counts) == "4 grains classified, 2 unknown, 5 cut by the border"


def test_nothing_classified_has_no_shares():
    counts = count([Prediction({"A": 1.0}, "a stone")], ("A",), cut=0)
    assert (counts.shares[0].share, counts.shares[0].low, counts.shares[0].high) == (0, 0, 1)


def test_what_most_grains_are_rejected_for_is_said_once_with_what_to_do():
    good, colour, size = (
        Prediction({"A": 1.0}, reason) for reason in (None, f"{UNLIKE} (its colour)", f"{UNLIKE} (x)")
    )
    assert rejected_together([good] * 5 + [colour] * 5) == []
    (note,) = rejected_together([good] * 2 + [colour] * 5 + [size] * 3)
    assert note.startswith(f"8 of 10 grains are rejected, 5 of them as {UNLIKE} (its colour); ")
    assert "docs/own_rice.qmd" in note
    assert "lay grains apart" in rejected_together([Prediction({"A": 1.0}, NOT_A_GRAIN)] * 3)[0]
