"""The laws of what is concluded from times."""

from __future__ import annotations

import pytest

from visionsparse.benchmark.report import break_even


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.5, 1.5), (0.25, 0.5)], "0.38"),  # half way: 0.375
        ([(0.5, 0.5), (0.25, 0.25)], "1.00 (extrapolated from 0.25 and 0.5)"),
        ([(0.5, 0.75), (0.25, 0.25)], "0.62 (extrapolated from 0.25 and 0.5)"),
        ([(0.5, 0.1), (0.25, 0.1)], "1.00 (extrapolated from 0.25 and 0.5)"),
        ([(0.1, 1.2), (0.2, 1.4)], "below 0.1"),
    ],
)
def test_break_even_is_where_the_line_of_times_meets_the_baseline(
    points: list[tuple[float, float]], expected: str
) -> None:
    assert break_even(points) == expected
