"""What a command line means before a verb's function is called with it."""

from dataclasses import dataclass
from typing import Any

import pytest

from lightning_gen.calling import call, gathered, passed_on, words_first
from lightning_gen.errors import UserError
from lightning_gen.evaluation import ranks
from lightning_gen.evaluation.evaluate import evaluate
from lightning_gen.evaluation.sample import sample

NAMES = ["extractor", "likelihood.estimator"]


@pytest.mark.parametrize(
    "args, meant",
    [
        ("run --extractor inception", "run --extractor=inception"),
        ("--extractor=inception run --extractor.weights a=b", 'run --extractor={"class_path":"inception","weights":"a=b"}'),
        ("--extractor.layer=64 --extractor inception", '--extractor={"class_path":"inception","layer":64}'),
        ("--extractor.a.b 1 --extractor.a.class_path X", '--extractor={"a.b":1,"a.class_path":"X"}'),
        ("--likelihood.draws 3 --likelihood.estimator.steps=5", '--likelihood.draws 3 --likelihood.estimator={"steps":5}'),
        ("runs/a.b --name extractor.x --extractors 3", "runs/a.b --name extractor.x --extractors 3"),
        ("run --extractor", "run --extractor"),
        ("run --extractor.layer --seed 3", "run --extractor.layer --seed 3"),
        ("--extractor.day 2020-01-01", '--extractor={"day":"2020-01-01"}'),
    ],
)  # fmt: skip
def test_all_that_is_said_of_an_option_is_one_dictionary(args, meant):
    assert [word.replace(" ", "") for word in gathered(args.split(" "), NAMES)] == meant.split(" ")


def test_a_dictionary_that_is_given_whole_may_be_changed():
    args = ["--extractor={layer: 1, a: 2}", "--extractor.a", "3"]
    assert gathered(args, NAMES) == ['--extractor={"layer": 1, "a": 3}']


@dataclass(frozen=True)
class How:
    draws: int = 16
    estimator: dict[str, Any] | None = None


def verb(
    runs: list[str],
    num: int = 1,
    how: How = How(),
    extractor: str | dict[str, Any] | None = None,
    force: bool = False,
):
    """A verb.

    Args:
        runs: some.
    """
    return runs, num, how, extractor, force


def test_words_switches_records_and_dictionaries():
    args = [
        "a",
        "b",
        "--force",
        "--num=3",
        "--how.draws=2",
        "--how.estimator.steps",
        "7",
        "--how.estimator.grid.size=2",
    ]
    assert call(verb, "x", args) == (["a", "b"], 3, How(2, {"steps": 7, "grid.size": 2}), None, True)
    assert call(verb, "x", ["a", "--extractor", "digits"])[3] == "digits"
    assert call(verb, "x", ["a", "--extractor", "X", "--extractor.weights=w"])[3] == {"class_path": "X", "weights": "w"}


@pytest.mark.parametrize("verb", [evaluate, sample])
def test_a_class_may_be_named_in_short(verb, monkeypatch):
    seen = {}
    monkeypatch.setattr(ranks, "run", lambda function, given, *where: seen.update(given))
    for words, meant in (
        (["--sampler", "AdaptiveSampler"], "AdaptiveSampler"),
        (["--sampler.class_path=A"], {"class_path": "A"}),
        (["--sampler=A", "--sampler.rtol", "0.1"], {"class_path": "A", "rtol": 0.1}),
        (["--sampler", "null"], None),
    ):
        call(verb, "x", ["run", "--out=x.png", *words] if verb is sample else ["run", *words])
        assert (seen["sampler"] if verb is sample else seen["protocol"].sampler) == meant


def test_so_may_an_estimator(monkeypatch):
    seen = {}
    monkeypatch.setattr(ranks, "run", lambda function, given, *where: seen.update(given))
    call(evaluate, "x", ["run", "--likelihood.estimator", "ProbabilityFlowLikelihood"])
    assert seen["protocol"].likelihood.estimator == "ProbabilityFlowLikelihood"


def test_words_may_stand_between_options():
    args = ["a", "--num", "3", "b", "--force", "c", "--how.draws=2", "d"]
    assert call(verb, "x", args) == (["a", "b", "c", "d"], 3, How(2), None, True)
    assert words_first(["--name", "x", "a", "--force", "b", "-h"], ["force"]) == [
        "a",
        "b",
        "--name",
        "x",
        "--force",
        "-h",
    ]
    assert words_first(["a", "--num"], []) == ["a", "--num"]  # for the parser to complain of


def starter(target: str, *others: str, how_many: int = 1, time: str | None = None, force: bool = False):
    """A verb that hands on what it does not know.

    Args:
        target: of it.
    """
    return target, others, how_many, time, force


def test_options_that_a_verb_does_not_have_are_passed_on():
    args = ["--how-many", "3", "x", "--a.b", "-1", "--force", "--c=2", "--time=1:00:00", "--", "--force", "w"]
    assert call(starter, "x", args) == ("x", ("--a.b", "-1", "--c=2", "--force", "w"), 3, "1:00:00", True)
    assert call(starter, "x", ["x"]) == ("x", (), 1, None, False)
    assert passed_on(["--a", "--b"], [], []) == ([], ["--a", "--b"])


@pytest.mark.parametrize("typo", ["--how_mny", "--how", "--tim=3", "--forces"])
def test_a_slip_of_the_pen_is_not_passed_on(typo):
    with pytest.raises(UserError, match="did you mean --"):
        call(starter, "x", ["x", typo, "3"])
    assert call(starter, "x", ["x", "--", typo])[1] == (typo,)
