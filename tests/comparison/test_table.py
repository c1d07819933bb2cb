"""What people read: which numbers stand in a cell, and what is said of them."""

import pytest

from lightning_gen.comparison.models import grouped, labelled
from lightning_gen.comparison.records import distinct, find_records
from lightning_gen.comparison.settings import disagreements
from lightning_gen.comparison.standing import stand
from lightning_gen.comparison.table import columns, markdown, print_table


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
    assert (
        cells(one, "FD[digits]") == ["2.000", "1.000", "100.000"]
        and cells(one, "bits/dim (elbo)")[0] == "3.000 ± 0.100"
    )
    more = standing([*seeds("b", [2.0, 4.0], bits=3.0), evaluated("c", fd=9.0, bits=4.0)])
    assert cells(more, "FD[digits]")[:2] == ["3.000 ± 1.414", "9.000"]
    assert cells(more, "bits/dim (elbo)")[:2] == ["3.000 ± 0.000", "4.000"] and cells(more, "seeds")[:2] == ["2", "1"]


def test_the_kind_is_always_said(standing, evaluated):
    same = standing([evaluated("a", bits=2.0), evaluated("b", bits=3.0)])
    assert cells(same, "bits/dim (elbo)")[:2] == ["2.000 ± 0.100", "3.000 ± 0.100"]
    mixed = standing([evaluated("a", bits=2.0), evaluated("b", bits=3.0, likelihood_kind="exact")])
    assert cells(mixed, "bits/dim")[:2] == ["2.000 ± 0.100 (elbo)", "3.000 ± 0.100 (exact)"]


def test_ranks_and_differences(standing, seeds):
    found = standing([*seeds("a", [1.0, 1.2]), *seeds("b", [1.1, 1.1]), *seeds("c", [7.0, 7.2])], baseline="c")
    assert cells(found, "rank") == ["1=", "1=", "3", "", ""]
    assert cells(found, "Δ FD") == ["-6.000 ± 0.000", "-6.000 ± 1.271", "baseline", "", ""]


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


def test_a_narrow_terminal_loses_the_dispensable_first(standing, evaluated, capsys):
    long = "m" * 75
    run = evaluated(long, fd=2.0, bits=3.0)
    (run / "metrics.csv").write_text("step,throughput/images_per_s\n1,100\n")
    print_table(standing([run]), "x")
    out = capsys.readouterr().out
    assert long in out and "bits/dim (elbo)" in out.splitlines()[2] and "images/s" not in out.splitlines()[2]
    assert "images/s |" in markdown(standing([run]), "x")


def test_a_bar_in_a_name_does_not_break_markdown(standing, evaluated):
    table = [line for line in markdown(standing([evaluated("a|b", fd=1.0)]), "x").splitlines() if line.startswith("|")]
    assert len({line.replace("\\|", "").count("|") for line in table}) == 1
