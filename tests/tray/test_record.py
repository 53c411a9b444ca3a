"""Counts and shares of the varieties on a tray."""

from __future__ import annotations

from rice_lib.contract.prediction import Prediction
from rice_lib.tray.record import count


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
