"""What people read: which numbers stand in a cell, and what is said of them."""

import math

import pytest

from lightning_gen.comparison.baselines import distinct
from lightning_gen.comparison.models import grouped, labelled
from lightning_gen.comparison.records import find_records
from lightning_gen.comparison.settings import disagreements
from lightning_gen.comparison.standing import stand
from lightning_gen.comparison.table import columns, markdown, print_table, rows_csv


@pytest.fixture
def standing():
    """standing(paths): of models whose one label is their name."""

    def function(paths, **how):
        found = find_records(paths)
        models = grouped(found.records)[0]
        models = labelled(models, {"model": [model.name for model in models]})
        how.setdefault("disagreements", disagreements(found.records))
        return stand(models, fixed=distinct(found.baselines), **how)

    return function


def cells(standing, header):
    column = next(column for column in columns(standing) if column.header == header)
    return [column.of_row(row) for row in standing.rows] + [column.of_fixed(record) for record in standing.fixed]


def test_the_spread_of_one_seed_is_the_standard_error_and_of_several_their_sd(standing, evaluated, seeds):
    one = standing([evaluated("a", fd=2.0, bits=3.0)])
    assert cells(one, "FD[digits]") == ["2.000", "1.000", "100.0"] and cells(one, "bits/dim (elbo)")[0] == "3.00 ± 0.10"
    more = standing([*seeds("b", [2.0, 4.0], bits=3.0), evaluated("c", fd=9.0, bits=4.0)])
    assert cells(more, "FD[digits]")[:2] == ["3.0 ± 1.4", "9.000"]
    assert cells(more, "bits/dim (elbo)")[:2] == ["3.000 ± 0", "4.000"] and cells(more, "seeds")[:2] == ["2", "1"]


def test_the_kind_is_always_said(standing, evaluated):
    same = standing([evaluated("a", bits=2.0), evaluated("b", bits=3.0)])
    assert cells(same, "bits/dim (elbo)")[:2] == ["2.00 ± 0.10", "3.00 ± 0.10"]
    mixed = standing([evaluated("a", bits=2.0), evaluated("b", bits=3.0, likelihood_kind="exact")])
    assert cells(mixed, "bits/dim")[:2] == ["2.00 ± 0.10 (elbo)", "3.00 ± 0.10 (exact)"]


def test_ranks_and_differences(standing, seeds):
    found = standing([*seeds("a", [1.0, 1.2]), *seeds("b", [1.1, 1.1]), *seeds("c", [7.0, 7.2])], baseline="c")
    assert [cell.replace("\N{EN DASH}", "-") for cell in cells(found, "rank")] == ["1-2", "1-2", "3", "", ""]
    assert cells(found, "Δ FD") == ["-6.000 ± 0", "-6.0 ± 1.3", "baseline", "", ""]


def test_what_is_incomparable_is_marked_in_its_column(standing, evaluated):
    found = standing([evaluated("a", fd=2.0, bits=1.0), evaluated("b", fd=1.0, bits=2.0, draws=1)])
    assert cells(found, "rank")[:2] == ["1", "2"] and cells(found, "bits/dim (elbo), incomparable")[0]
    assert not any(column.header == "Δ bits/dim" for column in columns(found))
    assert "INCOMPARABLE: the likelihood" in markdown(found, "x") and "draws is 16 in a and 1 in b" in markdown(
        found, "x"
    )


def test_features_are_named_by_their_label(standing, evaluated, capsys):
    found = standing([evaluated("a", fd=2.0, extractor_label="FID")])
    assert cells(found, "FID")[0] == "2.000"
    print_table(standing([evaluated("b", fd=2.0)]), "x")
    assert "FD[digits]" in capsys.readouterr().out  # rich would take [digits] for a style


def test_a_narrow_terminal_loses_the_dispensable_first(standing, evaluated, capsys, monkeypatch):
    runs = [
        evaluated(name, fd=2.0, bits=bits, metrics={"fd_inf": 1.0}, speeds=[100.0])
        for name, bits in (("a", 3.0), ("m" * 30, 4.0))
    ]
    seen = {}
    for width in (200, 120, 100, 90, 60):
        monkeypatch.setenv("COLUMNS", str(width))
        print_table(standing(runs), "x")
        out = capsys.readouterr().out
        assert max(map(len, out.splitlines())) <= width
        headers = ("images/s", "FD∞", "N", "Δ bits/dim", "Δ FD", "bits/dim (elbo)")
        line = next(line for line in out.splitlines() if "FD[digits]" in line and "model" in line)
        seen[width] = [header for header in headers if f" {header} " in f"{line} "]
        assert ("median training speed" in " ".join(out.split())) == ("images/s" in seen[width])
        assert "3.00 ± 0.10" in out  # no number is broken
    order = [len(columns) for columns in seen.values()]
    assert order == sorted(order, reverse=True) and order[0] == 6 and order[-1] == 2
    assert all(columns == list(seen[200])[-len(columns) :] for columns in seen.values())
    assert "images/s |" in markdown(standing(runs), "x")


def test_without_a_terminal_it_is_120_wide(standing, evaluated, capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table(standing([evaluated("a" * 200, fd=2.0)]), "x")
    widths = [len(line) for line in capsys.readouterr().out.splitlines()]
    assert 110 < max(widths) <= 120


@pytest.fixture
def csv_rows(standing, evaluated):
    """{name of the row: {column: text}} of two models of two seeds each, floor and ceiling."""
    numbers = {"a": [(2.0, 1.5, 3.0), (4.0, 2.5, 3.5)], "b": [(7.0, 7.0, 5.0), (12.0, 8.0, 5.0)]}
    runs = [
        evaluated(
            f"{m}-{s}", fd=fd, bits=bits, metrics={"fd_inf": inf}, seed=s, recipe=m, speeds=[50, 100 * (s + 1), 900]
        )
        for m, of in numbers.items()
        for s, (fd, inf, bits) in enumerate(of)
    ]
    header, lines = rows_csv(standing(runs))
    return {line[0]: dict(zip(header, line)) for line in lines}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            "a",
            {
                "fd": 3.0,
                "fd_sd": 2**0.5,
                "fd_inf": 2.0,
                "fd_inf_sd": 0.5**0.5,
                "bits_per_dim": 3.25,
                "images_per_s": 150.0,
            }
            | {"rank_low": 1, "rank_high": 2, "seeds": 2, "num_samples": 600, "baseline": "a", "fd_difference": ""},
        ),
        (
            "b",
            {
                "fd": 9.5,
                "fd_inf": 7.5,
                "bits_per_dim": 5.0,
                "rank_low": 1,
                "rank_high": 2,
                "fd_difference_over": "seeds",
            }
            | {"fd_difference": 6.5, "fd_difference_low": 6.5 - 19.0593, "fd_difference_high": 6.5 + 19.0593}
            | {"bits_per_dim_difference": 1.75, "bits_per_dim_difference_low": 1.75 - 3.17655},
        ),
        ("floor", {"fd": 1.0, "num_samples": 600, "rank_low": "", "seeds": "", "baseline": "", "images_per_s": ""}),
        ("ceiling", {"fd": 100.0, "num_samples": 600, "bits_per_dim": "", "fd_sd": ""}),
    ],
)
def test_the_csv_holds_the_numbers(csv_rows, row, expected):
    found = {key: csv_rows[row][key] for key in expected}
    numbers = {key: value for key, value in expected.items() if isinstance(value, float)}
    assert {key: found[key] for key in numbers} == pytest.approx(numbers, rel=1e-4)
    assert {key: value for key, value in found.items() if key not in numbers} == {
        key: value for key, value in expected.items() if key not in numbers
    }


def test_floor_and_ceiling_say_of_how_many_they_are(standing, evaluated):
    found = standing([evaluated("a", fd=2.0), evaluated("b", fd=3.0)])
    assert cells(found, "N") == ["600"] * 4


@pytest.mark.parametrize(("rank_by", "direction"), [("fd", "lower"), ("recall", "higher")])
def test_the_title_says_which_way_is_better(standing, evaluated, capsys, rank_by, direction):
    runs = [evaluated(name, fd=fd, metrics={"recall": fd}) for name, fd in (("a", 0.2), ("b", 0.3))]
    print_table(standing(runs, rank_by=rank_by), "x")
    assert f"{direction} is better" in " ".join(capsys.readouterr().out.split())


def test_a_bar_in_a_name_does_not_break_markdown(standing, evaluated):
    table = [line for line in markdown(standing([evaluated("a|b", fd=1.0)]), "x").splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1


def test_columns_are_what_was_asked_for(standing, evaluated):
    metrics = {"precision": 0.5, "recall": 0.25, "fd_inf": 1.0}
    found = standing([evaluated("a", fd=2.0, bits=3.0, metrics=metrics)], columns=["fd", "recall"])
    headers = [column.header for column in columns(found)]
    assert headers == ["model", "FD[digits]", "recall", "N"] and cells(found, "recall")[0] == "0.2500"
    assert not any("bits/dim" in text or "Likelihood" in text for text in markdown(found, "x").split("\n"))
    found = standing([evaluated("b", fd=2.0, bits=3.0)], columns=["bits_per_dim"], rank_by="fd")
    assert [metric.key for metric in found.shown] == ["fd", "bits_per_dim"]  # that which ranks is always there


def test_the_cost_of_sampling_is_said_once(standing, evaluated):
    runs = [evaluated(name, fd=2.0, nfe=nfe, sampler=name) for name, nfe in (("a", 4), ("b", 10))]
    found = standing(runs, disagreements=[])
    assert cells(found, "NFE")[:2] == ["4", "10"]
    labelled_by = {"4": "4", "10": "10"}
    for row in found.rows:
        row.model.labels["nfe"] = labelled_by[str(row.model.records[0].settings["nfe"])]
    assert "NFE" not in [column.header for column in columns(found)]
    header, _ = rows_csv(found)
    assert header.count("nfe") == 1 and "settings.nfe" in header
    same = standing([evaluated(name, fd=2.0) for name in "cd"])
    assert "NFE" not in [column.header for column in columns(same)]


@pytest.mark.parametrize(
    ("value", "spread", "text"),
    [
        (0.033604, math.nan, "0.03360"),
        (1272.672, math.nan, "1273"),
        (9.99996, math.nan, "10.00"),
        (5.8061, 0.3191, "5.81 ± 0.32"),
        (0.033604, 0.000213, "0.03360 ± 0.00021"),
        (1532.4, 217.3, "1532 ± 217"),
        (0.0, 0.0, "0.000 ± 0"),
        (math.inf, math.nan, "inf"),
        (math.nan, 1.0, ""),
    ],
)
def test_numbers_have_significant_digits(standing, evaluated, value, spread, text):
    """A small KID is not 0.000, and a number has no digits that its spread makes meaningless."""
    metrics = {"kid": value} | ({} if math.isnan(spread) else {"kid_se": spread})
    found = standing([evaluated("a", fd=1.0, metrics=metrics)], columns=["kid"])
    assert cells(found, "KID")[0] == text
