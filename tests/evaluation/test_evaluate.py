"""What is measured where something is missing: an extractor, a likelihood, or both."""

import json

import pytest

from lightning_gen.__main__ import main

pytestmark = pytest.mark.usefixtures("standing", "guarded")


@pytest.mark.parametrize("ranks", [1, 2])
def test_without_an_extractor_the_likelihood_is_all(trained, capsys, ranks):
    whole, bare = trained(), trained(data="Bare")
    capsys.readouterr()
    assert main(["evaluate", str(bare), "--device=cpu", f"--devices={ranks}"]) == 0
    content = json.loads((bare / "evaluation" / "default.json").read_text())
    assert "fd" not in content["metrics"]
    assert [content["settings"][key] for key in ("extractor", "extractor_digest", "num_samples")] == [None] * 3
    if ranks == 1:  # of several the first process says it
        assert "no feature extractor for Bare: FD is left out (give --extractor)\n" in capsys.readouterr().out
    assert (bare / "evaluation" / "default.png").exists()
    assert main(["evaluate", str(whole), "--device=cpu"]) == 0
    expected = json.loads((whole / "evaluation" / "default.json").read_text())["metrics"]
    assert content["metrics"] == pytest.approx({key: expected[key] for key in expected if key != "fd"}, rel=1e-6)
    assert "fd" in expected


def test_an_extractor_can_be_given(trained):
    bare, given = trained(data="Bare"), "--extractor.class_path=coins_of_ranks.Values"
    assert main(["evaluate", str(bare), "--device=cpu", given, "--name=given", "--draws=0"]) == 0
    content = json.loads((bare / "evaluation" / "given.json").read_text())
    assert list(content["metrics"]) == ["fd"] and content["settings"]["num_samples"] == 5


def test_without_a_likelihood_the_distance_is_all(trained):
    assert main(["evaluate", str(trained("Mute")), "--device=cpu", "--devices=2", "--reference=two"]) == 0
    content = json.loads((trained("Mute") / "evaluation" / "default.json").read_text())
    assert list(content["metrics"]) == ["fd"] and content["settings"]["likelihood_kind"] is None


def test_with_neither_there_is_nothing_to_measure(trained, capsys):
    mute, bare = trained("Mute", "Bare"), trained(data="Bare")
    capsys.readouterr()
    assert main(["evaluate", str(mute), "--device=cpu"]) == 2
    assert "Mute has no likelihood" in capsys.readouterr().err
    assert main(["evaluate", str(bare), "--device=cpu", "--draws=0"]) == 2
    error = capsys.readouterr().err
    assert "--extractor" in error and "--draws" in error and error.count("\n") == 1
