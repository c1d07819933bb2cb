"""The parser's words are needed for as little as can be: changed ones make a plainer line, never a wrong one."""

import argparse

import pytest
from jsonargparse import ArgumentParser

from lightning_gen.refusals import explained, links, nearest, refusal


def refused(message):
    try:
        raise argparse.ArgumentError(None, message)
    except argparse.ArgumentError as error:
        return refusal(error, "fit", [])


@pytest.mark.parametrize(
    "message",
    [
        "The key 'trainer.max_stepz' is new to me",
        'Parser key "trainer.max_steps": wants something else',
        "are required",
        "Option",
    ],
)
def test_words_never_seen_are_passed_on(message):
    assert message in refused(message)


def test_nested_keys_are_joined_and_alternatives_beside_them_are_not():
    message = """Parser key "model":
  Errors:
    - Problem with given class_path 'A':
        Parser key "network":
          Expected a <class 'int'>. Got value: wide. Got value: Namespace(width='wide')
    - Problem with given class_path 'B':
        Parser key "other":
          Expected a <class 'str'>. Got value: 3
"""
    assert refused(message).startswith("model.init_args.network must be") and "'wide'" in refused(message)


def test_what_a_class_lacks_is_named_with_its_place_and_what_the_verb_lacks_is_not():
    message = """Parser key "model":
  Problem with given class_path 'a.Model':
    Parser key "schedule":
      Errors:
        - Problem with given class_path 'a.Wrapped':
            the following arguments are required: schedule, shift
"""
    place = "--model.init_args.schedule.init_args"
    assert refused(message) == f"Wrapped needs schedule, shift: give {place}.schedule, {place}.shift"
    assert refused("the following arguments are required: fit.config") == (
        "config must be given: lightning-gen fit --help says how"
    )


def test_an_object_that_is_parsed_by_itself_is_not_named():
    message = """Parser key "object":
  Problem with given class_path 'a.Sampler':
    Parser key "guidance":
      Problem with given class_path 'a.Guide':
        {}
"""
    lack = message.format("the following arguments are required: run")
    wrong = message.format("Parser key \"scale\":\n          Expected a <class 'float'>. Got value: x")
    for text, keys, line in (
        (lack, ["object", "guidance"], "Guide needs run: give guidance.run"),
        (wrong, ["object", "guidance", "scale"], "guidance.scale must be of type float, not 'x'"),
        ("words never seen", [], None),
    ):
        assert explained(argparse.ArgumentError(None, text)) == (keys, line)


def test_other_errors_are_not_the_parsers():
    assert refusal(ValueError("unrecognized arguments: --x"), "fit", ["--config", "nowhere.yaml"]) is None


def test_the_parser_that_refused_knows_what_was_meant():
    """Its wording may change: what is near comes from its own actions."""
    parser = ArgumentParser(exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--breadth", type=int)
    with pytest.raises(argparse.ArgumentError) as caught:
        parser.parse_args(["--bredth=3"])
    assert refusal(caught.value, "fit", ["--bredth=3"]) == "there is no key 'bredth', did you mean breadth?"


def test_nearest():
    known = ["trainer.max_steps", "trainer.max_epochs", "seed_everything", "samples.num"]
    assert nearest("trainer.max_stepz", known) == ", did you mean trainer.max_steps?"
    assert nearest("num", known) == ", did you mean samples.num?"
    assert nearest("seed", known) == ", did you mean seed_everything?"
    assert nearest("zzz", known) == ""
    assert nearest("stepz", ["steps"], prefix="a.init_args.") == ", did you mean a.init_args.steps?"


def test_links_follow_causes_alone():
    cause, error = ValueError("cause"), TypeError("effect")
    error.__cause__ = cause
    cause.__context__ = KeyError("beside it")
    assert list(links(error)) == [error, cause]


def test_flags_win_over_the_files_wherever_they_stand():
    from lightning_gen.refusals import configs_first

    given = [
        "--trainer.max_steps",
        "3",
        "--flag",
        "--trainer",
        "t.yaml",
        "--run=x",
        "-c",
        "a.yaml",
        "--model.init_args.x",
        "-1",
        "--config=b.yaml",
    ]
    first = [
        "-c",
        "a.yaml",
        "--config=b.yaml",
        "--trainer",
        "t.yaml",
        "--trainer.max_steps",
        "3",
        "--flag",
        "--run=x",
        "--model.init_args.x",
        "-1",
    ]
    assert configs_first(given) == first == configs_first(first)
