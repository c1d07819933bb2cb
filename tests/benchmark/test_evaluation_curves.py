"""Metrics against a number that the evaluation varies: what stands over what."""

import math
from dataclasses import replace

import pytest

from lightning_gen.benchmark.evaluation_curves import COST, draw, moves
from lightning_gen.comparison.metrics import BITS, FD


def lines(axes):
    """{colour, style of a line: its points}, without the levels across."""
    return [
        (line.get_linestyle(), [tuple(point) for point in line.get_xydata().tolist()])
        for line in axes.lines
        if line.get_marker() != "None"
    ]


def told(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_points_stand_at_what_sampling_cost_not_at_what_it_might_have(swept):
    plan, standing = swept([])
    figure = draw(standing, plan)
    [axes] = figure.axes  # bits/dim are the same along the axis
    assert axes.get_xlabel() == COST and axes.get_ylabel().startswith("FD") and axes.get_yscale() == "log"
    assert lines(axes) == [
        ("-", [(5, 20), (10, 10)]),
        ("-", [(4, 24), (10, 9)]),
        (":", [(5, 50), (10, 30)]),
        (":", [(4, 60), (10, 40)]),
    ]
    assert told(figure) == ["ddim", "heun", "gaussian, ddim", "gaussian, heun", "floor"]
    [level] = [line for line in axes.lines if line.get_marker() == "None"]
    assert set(level.get_ydata()) == {1.0} and level.get_linestyle() == "--"


def test_where_something_was_measured_it_is_written(swept):
    ways = {"solver": {"ddim": {}, "heun": {}}, "scale": {"5": {}, "50": {}}}
    plan, standing = swept([], evaluation_axes=ways)
    [axes] = draw(standing, plan).axes
    axes.figure.canvas.draw()
    assert axes.get_xscale() == "log" and [text.get_text() for text in axes.get_xticklabels()] == ["5", "50"]


def test_a_baseline_has_the_colour_of_the_models_that_are_sampled_alike(swept):
    plan, standing = swept(["a", "b"])
    figure = draw(standing, plan)
    drawn = [line for line in figure.axes[0].lines if line.get_marker() != "None"]
    names = dict(zip(told(figure), drawn))
    assert list(names)[:4] == ["a, ddim", "a, heun", "b, ddim", "b, heun"]
    for solver in ("ddim", "heun"):
        colours = {names[f"{who}, {solver}"].get_color() for who in ("a", "b", "gaussian")}
        assert len(colours) == 1
    assert names["a, ddim"].get_color() != names["a, heun"].get_color()
    assert names["a, ddim"].get_linestyle() != names["b, ddim"].get_linestyle()


def test_seeds_are_a_mean_with_a_bar(swept):
    plan, standing = swept([], seeds=2)
    [axes] = draw(standing, plan).axes
    assert lines(axes)[0] == ("-", [(5, 21), (10, 11)])
    [bar] = axes.containers[0].lines[2]
    (low, high), _ = bar.get_segments()
    assert [low[1], high[1]] == pytest.approx([21 - math.sqrt(2), 21 + math.sqrt(2)])


def test_a_number_that_sets_no_cost_stands_at_itself_and_shares_are_on_one_axis(swept):
    scales = {
        "solver": {"ddim": {}, "heun": {}},
        "scale": {"5": {"sampler.guidance.scale": 5}, "10": {"sampler.eta": 1}},
    }
    plan, standing = swept([], evaluation_axes=scales, columns=["fd", "precision", "recall"])
    left, right = draw(standing, plan).axes
    assert left.get_xlabel() == right.get_xlabel() == "scale"
    assert [x for _, points in lines(left)[:2] for x, _ in points] == [5, 10, 5, 10]
    assert "precision (filled), recall (hollow); higher" in right.get_ylabel() and right.get_yscale() == "linear"
    filled = [line.get_fillstyle() for line in right.lines if line.get_marker() != "None"]
    assert filled == ["full", "full", "none", "none"]  # the baseline has neither
    assert lines(right)[0][1] == [(5, 1 / 20), (10, 1 / 10)] and lines(right)[2][1] == [(5, 2 / 20), (10, 2 / 10)]


@pytest.mark.parametrize("axes", [{}, {"solver": {"ddim": {}, "heun": {}}}, {"nfe": {"5": {"nfe": 5}}}])
def test_without_a_number_there_is_nothing_to_draw(swept, axes):
    plan, standing = swept(["a"])
    assert draw(standing, replace(plan, evaluation_axes=axes)) is None


def test_what_no_axis_moves(swept):
    _, standing = swept(["a", "b"])
    assert moves(standing.models, "nfe", FD) and not moves(standing.models, "nfe", BITS)
    assert moves(standing.models, "schedule", BITS)
