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
    assert main(["evaluate", str(bare), "--device=cpu", given, "--name=given", "--likelihood.draws=0"]) == 0
    content = json.loads((bare / "evaluation" / "given.json").read_text())
    assert list(content["metrics"]) == ["fd"] and content["settings"]["num_samples"] == 5


def test_without_a_likelihood_the_distance_is_all(trained):
    assert main(["evaluate", str(trained("Mute")), "--device=cpu", "--devices=2", "--reference=val"]) == 0
    content = json.loads((trained("Mute") / "evaluation" / "default.json").read_text())
    assert list(content["metrics"]) == ["fd"] and content["settings"]["likelihood_kind"] is None


def test_with_neither_there_is_nothing_to_measure(trained, capsys):
    mute, bare = trained("Mute", "Bare"), trained(data="Bare")
    capsys.readouterr()
    assert main(["evaluate", str(mute), "--device=cpu"]) == 2
    assert "Mute has no likelihood" in capsys.readouterr().err
    assert main(["evaluate", str(bare), "--device=cpu", "--likelihood.draws=0"]) == 2
    error = capsys.readouterr().err
    assert "--extractor" in error and "--likelihood.draws" in error and error.count("\n") == 1


def parts_of(run, name):
    folder = run / "evaluation" / f".{name}.parts"
    return sorted(file.name.split("-", 2)[0] for file in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("ranks", [1, 2])
def test_cut_in_the_middle_it_goes_on_and_ends_the_same(trained, monkeypatch, ranks):
    run = trained()
    args = ["evaluate", str(run), "--device=cpu", "--num_samples=300", "--batch_size=20", "--likelihood.draws=2"]
    assert main([*args, "--name=whole"]) == 0
    from lightning_gen.evaluation import measure

    sample, drawn = measure.samples, []

    def cut(module, indices, *rest, **how):
        for number, batch in enumerate(sample(module, indices, *rest, **how)):
            if number == 6:
                raise KeyboardInterrupt
            drawn.append(len(batch))
            yield batch

    monkeypatch.setattr(measure, "samples", cut)
    assert main([*args, f"--name=cut{ranks}"]) == 130
    assert parts_of(run, f"cut{ranks}") == ["samples"] * 6 and sum(drawn) == 120
    assert not (run / "evaluation" / f"cut{ranks}.json").exists()
    monkeypatch.setattr(measure, "samples", sample)
    assert main([*args, f"--name=cut{ranks}", f"--devices={ranks}", "--batch_size=50"]) == 0
    assert parts_of(run, f"cut{ranks}") == []
    cut, whole = (json.loads((run / "evaluation" / f"{name}.json").read_text()) for name in (f"cut{ranks}", "whole"))
    assert cut["timing"]["taken_up"] == {"samples": 120}
    assert cut["metrics"] == pytest.approx(whole["metrics"], rel=1e-5)
    assert (run / "evaluation" / f"cut{ranks}.png").read_bytes() == (run / "evaluation" / "whole.png").read_bytes()


def test_another_evaluation_of_that_name_takes_nothing_up(trained, monkeypatch):
    run = trained()
    args = ["evaluate", str(run), "--device=cpu", "--num_samples=100", "--batch_size=20", "--name=other"]
    from lightning_gen.evaluation import judge

    def broken(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(judge, "likelihood", broken)
        assert main(args) == 130
    assert parts_of(run, "other") == ["samples"] * 5
    assert main([*args, "--seed=1"]) == 0
    content = json.loads((run / "evaluation" / "other.json").read_text())
    assert "taken_up" not in content["timing"] and content["timing"]["images_per_s"] > 0


def test_samples_that_were_drawn_serve_when_the_likelihood_fails(trained, monkeypatch):
    """The likelihood can be left out then: what was sampled is not lost."""
    run = trained()
    args = ["evaluate", str(run), "--device=cpu", "--num_samples=100", "--batch_size=20", "--name=half"]
    from lightning_gen.errors import UserError
    from lightning_gen.evaluation import judge

    def broken(*args, **kwargs):
        raise UserError("not finite")

    with monkeypatch.context() as patch:
        patch.setattr(judge, "likelihood", broken)
        assert main(args) == 2
    assert main([*args, "--likelihood.draws=0"]) == 0
    content = json.loads((run / "evaluation" / "half.json").read_text())
    assert content["timing"]["taken_up"] == {"samples": 100} and "bits_per_dim" not in content["metrics"]


def test_the_floor_and_the_ceiling_stand_beside_the_numbers(trained):
    run = trained()
    assert main(["evaluate", str(run), "--device=cpu", "--num_samples=100", "--name=rows"]) == 0
    content = json.loads((run / "evaluation" / "rows.json").read_text())
    floor, ceiling = content["baselines"]["floor"], content["baselines"]["ceiling"]
    assert floor["settings"] == {"num_samples": 6, "source": "real data, split 'val'"}
    assert ceiling["settings"] == {"num_samples": 100, "source": "noise"} and ceiling["metrics"]["fd"] > 0
    seconds = content["timing"]["seconds"]
    assert {"total", "reference", "sampling", "features", "likelihood", "distances"} <= seconds.keys()
    parts = sum(value for what, value in seconds.items() if what != "total")
    assert parts <= seconds["total"] + 0.01


def test_fewer_samples_than_features_is_one_line(trained, capsys):
    run = trained()
    capsys.readouterr()
    assert main(["evaluate", str(run), "--device=cpu", "--num_samples=4"]) == 2
    error = capsys.readouterr().err
    assert "FD[values] has 4 features" in error and "--num_samples" in error and error.count("\n") == 1
    assert main(["evaluate", str(run), "--device=cpu", "--num_samples=10", "--reference=two"]) == 2
    error = capsys.readouterr().err
    assert "the 2 examples of the split 'two'" in error and error.count("\n") == 1


def test_a_reference_that_holds_the_floor_has_another(trained):
    """`val` is the floor of these data: against itself it would be at 0."""
    run = trained(data="More")
    for reference, floor in (("val", "test"), ("test", "val")):
        args = ["--device=cpu", "--num_samples=50", f"--reference={reference}", "--likelihood.draws=0"]
        assert main(["evaluate", str(run), *args, "--name=floors"]) == 0
        content = json.loads((run / "evaluation" / "floors.json").read_text())
        assert content["baselines"]["floor"]["settings"]["source"] == f"real data, split '{floor}'"


def test_nothing_to_measure_is_refused_at_once(capsys):
    assert main(["evaluate", "nowhere", "--num_samples=0", "--likelihood.draws=0"]) == 2
    assert "nothing to measure" in capsys.readouterr().err


def test_what_an_earlier_evaluation_left_does_not_stand_beside_a_new_one(trained):
    run = trained()
    args = ["evaluate", str(run), "--device=cpu", "--num_samples=10", "--name=twice"]
    assert main(args) == 0 and (run / "evaluation" / "twice.csv").exists()
    assert main([*args, "--likelihood.draws=0"]) == 0
    assert not (run / "evaluation" / "twice.csv").exists()


def test_no_samples_leave_the_likelihood(trained):
    run = trained()
    assert main(["evaluate", str(run), "--device=cpu", "--num_samples=0", "--name=alone"]) == 0
    content = json.loads((run / "evaluation" / "alone.json").read_text())
    assert "fd" not in content["metrics"] and content["metrics"]["bits_per_dim"] > 0
    assert not (run / "evaluation" / "alone.png").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", ".hidden", "", "x" * 101, "new\nline", "test", "x_logsnr"])
def test_a_name_that_is_no_files_is_refused(trained, capsys, name):
    assert main(["evaluate", str(trained()), f"--name={name}", "--device=cpu"]) == 2
    assert "--name" in capsys.readouterr().err
