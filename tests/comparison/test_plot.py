"""The picture shows every run, the floor and the ceiling, and the intervals of the table."""

from dataclasses import replace

import pytest

from lightning_gen.comparison.baselines import distinct
from lightning_gen.comparison.models import grouped
from lightning_gen.comparison.plot import draw
from lightning_gen.comparison.records import find_records
from lightning_gen.comparison.standing import stand


def test_it_draws_what_the_table_says(seeds):
    found = find_records([*seeds("a", [1.0, 1.5]), *seeds("b", [4.0, 5.0])])
    standing = stand(grouped(found.records)[0], fixed=distinct(found.baselines))
    numbers, differences = draw(standing, "x").axes
    assert [label.get_text() for label in numbers.get_yticklabels()] == [f"  {row.rank}" for row in standing.rows]
    dots = [value for line in numbers.lines if line.get_marker() == "o" for value in line.get_xdata()]
    assert sorted(dots) == [1.0, 1.5, 4.0, 5.0]
    assert {line.get_label() for line in numbers.lines if line.get_label()[0] != "_"} == {"floor 1"}
    assert numbers.get_title("right") == "ceiling 100 →" and not numbers.get_title("left")
    low, high = numbers.get_xlim()
    assert low < 1.0 < 5.0 < high < 10.0  # the ceiling does not squeeze the models
    [bars] = differences.containers
    low, high = bars.lines[2][0].get_segments()[0][:, 0]
    expected = standing.rows[1].differences["fd"]
    assert (low, high) == pytest.approx((expected.low, expected.high))


def test_a_far_difference_is_an_arrow_at_the_edge_that_flattens_no_other(seeds):
    paths = [p for i, name in enumerate("abcdef") for p in seeds(name, [1.0 + 0.1 * i, 1.05 + 0.12 * i])]
    standing = stand(grouped(find_records([*paths, *seeds("far", [500.0, 510.0])]).records)[0])
    _, axes = draw(standing, "x").axes
    right = axes.get_xlim()[1]
    assert right < 10.0 and [text.get_text() for text in axes.texts] == ["+504"]
    [arrow] = [line for line in axes.lines if line.get_marker() == ">" and line.get_ydata()[0] == 6]
    assert arrow.get_xdata()[0] == right


def test_a_closed_form_is_marked_in_the_rows_that_were_measured_alike(seeds):
    models = grouped(find_records([*seeds("a", [2.0]), *seeds("b", [4.0]), *seeds("c", [6.0])]).records)[0]
    models = [replace(model, labels={"model": "m", "nfe": str(i)}) for i, model in enumerate(models)]
    record = models[0].records[0]
    fixed = [
        replace(record, name="gaussian", metrics={"fd": fd}, labels={"nfe": nfe})
        for nfe, fd in (("0", 3.0), ("1", 5.0), ("2", 500.0))
    ]
    numbers, _ = draw(stand(models, fixed=fixed), "x").axes
    [marks] = [line for line in numbers.lines if line.get_label() == "gaussian, measured alike"]
    assert [tuple(point) for point in marks.get_xydata()] == [(3.0, 0), (5.0, 1)]  # the third is far from all
    assert not numbers.get_title("right")


def test_of_many_baselines_floor_and_ceiling_are_drawn(seeds):
    found = find_records(seeds("a", [2.0]) + seeds("b", [3.0]))
    floor = found.baselines[0]
    many = [replace(floor, name=f"form {i}", metrics={"fd": 2.5}) for i in range(20)]
    for fixed, drawn in ((many[:3], 4), (many, 1)):
        numbers, _ = draw(
            stand(grouped(found.records)[0], fixed=[replace(floor, metrics={"fd": 2.2}), *fixed]), "x"
        ).axes
        assert len([line for line in numbers.lines if line.get_label()[0] != "_"]) == drawn


def test_shares_stand_on_a_linear_axis(evaluated):
    runs = [evaluated(name, fd=1.0, metrics={"recall": recall}) for name, recall in (("a", 0.05), ("b", 0.9))]
    standing = stand(grouped(find_records(runs).records)[0], columns=["recall"])
    assert [axes.get_xscale() for axes in draw(standing, "x").axes[::2]] == ["linear", "linear"]
