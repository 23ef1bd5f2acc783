"""A run's summary weighs its maps by what was scored of each."""

from __future__ import annotations

import pytest

from flows.report import _scores


def test_maps_count_by_their_pixels() -> None:
    """A map of 1,000 pixels, 90 % right, beside one of 10, all wrong: 900 of 1,010, not the mean of 90 % and 0 %."""
    large = {"confusion": [[500, 50], [50, 400]]}
    small = {"confusion": [[0, 10], [0, 0]]}
    found = _scores([large, small])
    assert found is not None
    assert found.accuracy == pytest.approx(900 / 1010)
    assert found.mean_iou == pytest.approx((500 / 610 + 400 / 510) / 2)
    assert _scores([]) is None
