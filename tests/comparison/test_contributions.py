"""The curves over log-SNR of several models: means over their seeds, and nothing where there are none."""

import csv
from dataclasses import replace

import pytest

from lightning_gen.comparison.contributions import contributions, draw, write
from lightning_gen.comparison.models import grouped
from lightning_gen.comparison.records import find_records

EDGES = [-10.0, 0.0, 10.0]


def with_curve(run, values, edges=EDGES):
    with open(run / "evaluation" / "default_logsnr.csv", "w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["logsnr_low", "logsnr_high", "nats_per_logsnr", "nats_per_logsnr_se"])
        rows.writerows(zip(edges, edges[1:], values, [0.1] * len(values)))
    return run


def models(runs):
    return grouped(find_records(runs).records)[0]


def test_a_models_curve_is_the_mean_of_its_seeds(seeds):
    runs = seeds("a", [1.0, 2.0]) + seeds("b", [3.0])
    for run, values in zip(runs, ([1.0, 2.0], [3.0, 6.0], [5.0, 5.0])):
        with_curve(run, values)
    assert contributions(models(runs)) == {
        "a": [(-10.0, 0.0, 2.0), (0.0, 10.0, 4.0)],
        "b-0": [(-10.0, 0.0, 5.0), (0.0, 10.0, 5.0)],
    }
    labels = [text.get_text() for text in draw(models(runs)).axes[0].get_legend().get_texts()]
    assert labels == ["a  60", "b-0  100"]  # the areas


@pytest.mark.parametrize("second", [None, [-10.0, 5.0, 10.0]], ids=["none", "other bins"])
def test_seeds_without_a_common_curve_are_left_out(seeds, tmp_path, second):
    first, other = seeds("a", [1.0, 2.0])
    with_curve(first, [1.0, 2.0])
    if second:
        with_curve(other, [1.0, 2.0], second)
    assert contributions(models([first, other])) == {}
    write(models([first, other]), tmp_path)
    assert not (tmp_path / "logsnr.png").exists()


def test_one_curve_of_one_training_is_drawn_once(evaluated):
    """In however many ways it was sampled; NaN, where no draw fell, is like NaN."""
    found = []
    for name, values in (("a", [1.0, float("nan")]), ("b", [2.0, float("nan")])):
        [model] = models([with_curve(evaluated(name, fd=1.0), values)])
        found += [replace(model, labels={"model": name, "nfe": nfe}) for nfe in ("5", "10")]
    assert list(contributions(found)) == ["a", "b"]
    assert list(contributions(found[:1])) == ["a, 5"]
    alone = [replace(model, labels={"nfe": model.labels["nfe"]}) for model in found[:2]]
    assert list(contributions(alone)) == ["a"]  # the run's name
