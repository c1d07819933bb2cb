"""A benchmark that cannot end well is refused before its first cell trains, and leaves nothing behind."""

from pathlib import Path

import pytest
import yaml

from lightning_gen.__main__ import main
from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.preflight import _check
from lightning_gen.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
COSINE = {"model.init_args.schedule": "Cosine"}
FARTHER = {"model.init_args.schedule": {"class_path": "Cosine", "init_args": {"logsnr_max": 13.3}}}
KARRAS = {"model.init_args.schedule": "Karras"}


@pytest.fixture
def plan(tmp_path):
    """plan(schedules, experiment="digits_diffusion", **keys): its file."""

    def function(schedules, experiment="digits_diffusion", **keys):
        content = {"name": "p", "experiment": str(ROOT / "configs" / "experiment" / f"{experiment}.yaml")}
        content |= {
            "axes": {"schedule": schedules},
            "evaluation": {"num_samples": 100, "likelihood": {"draws": 1}},
        } | keys
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
        return tmp_path / "plan.yaml"

    return function


def test_a_grid_of_which_no_cell_can_be_built_is_refused(plan):
    """One that can is enough: of axes that do not all go together the others are trained."""
    wrong = {"model.init_args.schedule": "Cosin"}
    with pytest.raises(UserError, match="no cell can be built; b: .*there is no class 'Cosin', did you mean Cosine"):
        _check(Plan.read(plan({"b": wrong})), here=False)
    _check(Plan.read(plan({"a": COSINE, "b": wrong})), here=False)


def test_likelihoods_are_ranked_between_equal_ends_only(plan):
    """Another end of log-SNR leaves another part of the noise to the decoder; FD may be ranked all the same."""
    for other in (FARTHER, KARRAS):
        with pytest.raises(UserError, match=r"log-SNR \[-10.0, 10.0\] in a and .* in b"):
            _check(Plan.read(plan({"a": COSINE, "b": other}, rank_by="bits_per_dim")), here=False)
        _check(Plan.read(plan({"a": COSINE, "b": other}, rank_by="fd")), here=False)
    equal = {"a": COSINE, "b": {"model.init_args.schedule": "LinearBeta"}}
    _check(Plan.read(plan(equal, rank_by="bits_per_dim")), here=False)


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        ({"evaluation": {"num_samples": 1, "likelihood": {"draws": 1}}}, "1"),
        ({"experiment": "toy_diffusion", "evaluation": {"extractor": "digits", "num_samples": 100}}, "shape"),
        ({"evaluation_axes": {"steps": {"x": {"sampler.stepz": 3}}}}, "stepz"),
    ],
)
def test_a_measurement_that_cannot_be_taken_is_refused(plan, keys, named):
    with pytest.raises(UserError, match=named):
        _check(Plan.read(plan({"a": COSINE}, **keys)), here=True)


def test_nothing_is_left_of_it(plan, tmp_path, capsys):
    config = plan({"a": COSINE, "b": FARTHER}, rank_by="bits_per_dim")
    assert main(["benchmark", "--config", str(config), "--out", str(tmp_path / "out")]) == 2
    out, error = capsys.readouterr()
    assert "checking 2 cells" in out and "different ends" in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()
