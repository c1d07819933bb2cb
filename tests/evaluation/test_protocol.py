"""How models are measured, as configs write it."""

import pytest
from jsonargparse import ArgumentParser

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


def test_a_class_may_stand_for_the_whole():
    """By its bare name, in a config and where `test` takes a protocol on the command line; `specs.overridden` finds it."""
    written = {"sampler": "AdaptiveSampler", "likelihood": {"estimator": "ProbabilityFlowLikelihood"}}
    meant = Protocol(sampler="AdaptiveSampler", likelihood=LikelihoodProtocol(estimator="ProbabilityFlowLikelihood"))
    assert Protocol.of(written) == meant
    assert changed(written, {"sampler.rtol": 0.1})["sampler"] == {"class_path": "AdaptiveSampler", "rtol": 0.1}
    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(Protocol, "evaluation")
    args = ["--evaluation.sampler=AdaptiveSampler", "--evaluation.likelihood.estimator=ProbabilityFlowLikelihood"]
    assert parser.instantiate(parser.parse_args(args))["evaluation"] == meant


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
        ({"sampler": 3}, "3 for its sampler"),
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
