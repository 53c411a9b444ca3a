"""Wilson's interval is scipy's."""

from __future__ import annotations

import pytest
from scipy import stats

from rice_lib.common.interval import wilson


@pytest.mark.parametrize(("k", "n"), [(0, 10), (10, 10), (3, 40), (499, 500)])
def test_the_interval_is_scipys(k, n):
    interval = stats.binomtest(k, n).proportion_ci(0.95, method="wilson")
    assert wilson(k, n) == pytest.approx((interval.low, interval.high), abs=1e-12)


def test_of_none_nothing_is_known():
    assert wilson(0, 0) == (0, 1)
