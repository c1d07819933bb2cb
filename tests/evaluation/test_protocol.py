"""How models are measured, as configs write it."""

import pytest

from lightning_gen.errors import UserError
from lightning_gen.evaluation.protocol import LikelihoodProtocol, Protocol, changed, leaves

DDIM = {"class_path": "DDIM", "init_args": {"eta": 1.0}}


@pytest.mark.parametrize(
    "written",
    [
        {"sampler": {"steps": 5}, "likelihood": {"draws": 3}},
        {"sampler.steps": 5, "likelihood.draws": 3},
        {"sampler": {"init_args": {"steps": 5}}, "likelihood": {"draws": 3}},
        {"sampler.init_args.steps": 5, "likelihood.draws": 3},
    ],
)
def test_dotted_or_nested_is_the_same(written):
    assert Protocol.of(written) == Protocol(sampler={"steps": 5}, likelihood=LikelihoodProtocol(draws=3))


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"sampler": {"steps": 5}}, {"sampler.solver": "Heun"}, {"steps": 5, "solver": "Heun"}),
        ({"sampler": {"solver": "DDIM", "solver.eta": 1}}, {"sampler.solver": "Heun"}, {"solver": "Heun"}),
        ({"sampler": {"solver": "DDIM"}}, {"sampler.solver.eta": 1}, {"solver": {"class_path": "DDIM", "eta": 1}}),
        ({"sampler": {"solver": DDIM}}, {"sampler.solver.eta": 0}, {"solver": {**DDIM, "eta": 0}}),
        ({"sampler": {"steps": 5}}, {"sampler": {"class_path": "S"}}, {"class_path": "S"}),
        ({"sampler": {"steps": 5}}, {"sampler": None}, None),
        ({"sampler": None}, {"sampler.steps": 6}, {"steps": 6}),
    ],
)
def test_the_later_wins_and_takes_with_it_what_lay_below(before, after, found):
    kept = str(before)
    assert changed(before, after) == {"sampler": found}
    assert str(before) == kept


def test_an_object_that_is_named_whole_is_one_value():
    assert leaves({"sampler": {"solver": DDIM, "steps": 3}, "nfe": 5}) == {
        "sampler.solver": DDIM,
        "sampler.steps": 3,
        "nfe": 5,
    }


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"sample.steps": 3}, "no 'sample', did you mean sampler?"),
        ({"likelihood": {"draw": 3}}, "likelihood has no 'draw', did you mean draws?"),
        ({"sampler": "DDIM"}, "'DDIM' for its sampler"),
        ({"num_samples": True}, "True for its num_samples"),
        ({"num_samples.x": 1}, "for its num_samples"),
        ({"likelihood": 3}, "3 for its likelihood"),
        ({"likelihood.draws": "3"}, "'3' for its draws"),
        ({"nfe": 0}, "--nfe must be at least 1"),
    ],
)
def test_what_is_no_protocol_is_said(values, said):
    with pytest.raises(UserError, match=said):
        Protocol.of(values)
