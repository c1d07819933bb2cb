"""The picture shows every run, the floor and the ceiling, and the intervals of the table."""

import pytest

from lightning_gen.comparison.models import grouped
from lightning_gen.comparison.plot import draw
from lightning_gen.comparison.records import distinct, find_records
from lightning_gen.comparison.standing import stand


def test_it_draws_what_the_table_says(seeds):
    found = find_records([*seeds("a", [1.0, 1.5]), *seeds("b", [4.0, 5.0])])
    standing = stand(grouped(found.records)[0], fixed=distinct(found.baselines))
    numbers, differences = draw(standing, "x").axes
    dots = [value for line in numbers.lines if line.get_marker() == "o" for value in line.get_xdata()]
    assert sorted(dots) == [1.0, 1.5, 4.0, 5.0]
    assert {"floor 1", "ceiling 100"} <= {line.get_label() for line in numbers.lines}
    [bars] = differences.containers
    low, high = bars.lines[2][0].get_segments()[0][:, 0]
    expected = standing.rows[1].differences["fd"]
    assert (low, high) == pytest.approx((expected.low, expected.high))
