"""A small distance during training: of the average's samples, and nothing of the training knows of it."""

import csv
import warnings

import pytest
import torch

from lightning_gen.callbacks import EMA, Checkpoints, Fidelity, RunBegins
from lightning_gen.errors import UserError
from lightning_gen.evaluation.frechet import FeatureStatistics, Reference, frechet_distance
from lightning_gen.evaluation.measure import samples
from lightning_gen.run_directory import find_checkpoint
from lightning_gen.run_entry import Entry

RAW = {"class_path": "lightning_gen.evaluation.extractors.RawFeatures"}


@pytest.fixture
def fidelity():
    return lambda **kwargs: Fidelity(**{"every_n_steps": 2, "num_samples": 30, "extractor": RAW, **kwargs})


def rows(run):
    with open(run / "metrics.csv") as file:
        found = {int(row["step"]): row.get("fidelity/fd") for row in csv.DictReader(file)}
    return {step: float(value) for step, value in found.items() if value}


@pytest.fixture
def begun(tmp_path):
    return lambda: RunBegins(tmp_path, Entry("id"), {})


@pytest.mark.parametrize("steps, expected", [(5, [2, 4, 5]), (4, [2, 4])])
def test_it_is_measured_every_n_steps_and_at_the_end(trainer, model, data, tmp_path, fidelity, begun, steps, expected):
    trainer(steps, begun(), fidelity()).fit(model(), data(micro_batch_size=4))
    assert list(rows(tmp_path)) == expected


def test_it_is_the_distance_of_the_averages_samples_to_the_validation_split(
    trainer, model, data, tmp_path, fidelity, begun
):
    module, split = model(), data().split("val")
    trainer(4, begun(), EMA([0.9]), fidelity()).fit(module, data())
    module.eval()
    with module.ema_scope():
        drawn = torch.cat(list(samples(module, range(30), 7, seed=0)))
    moments = []
    for x in (drawn, split.x):
        sums = FeatureStatistics(2)
        sums.update(x)
        moments.append(sums.compute())
    expected = frechet_distance(moments[0], Reference.from_moments(moments[1]))
    assert rows(tmp_path)[4] == pytest.approx(expected, rel=1e-6)


def test_training_and_its_checkpoint_do_not_know_of_it(trainer, model, data, tmp_path, fidelity, equal):
    found = []
    for name, callbacks in (("without", []), ("with", [fidelity()])):
        module = model()
        run = tmp_path / name
        trainer(5, EMA([0.9]), *callbacks, Checkpoints(5), root=run).fit(module, data())
        checkpoint = torch.load(find_checkpoint(run), weights_only=True)
        found.append((module, checkpoint))
    (plain, its_checkpoint), (measured, checkpoint) = found
    assert equal(plain.state_dict(), measured.state_dict())
    assert [name for name, _ in plain.named_modules()] == [name for name, _ in measured.named_modules()]
    assert equal(checkpoint["state_dict"], its_checkpoint["state_dict"])
    averages = [c["lightning_gen"]["averages"]["weights"]["0.9"] for c in (checkpoint, its_checkpoint)]
    assert equal(*averages)
    assert checkpoint["callbacks"].keys() == its_checkpoint["callbacks"].keys()


def test_the_global_random_state_is_left_alone(trainer, model, data, fidelity):
    states = []
    for callbacks in ([], [fidelity()]):
        torch.manual_seed(3)
        trainer(4, *callbacks).fit(model(), data())
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_samples_that_are_not_finite_do_not_end_the_training(trainer, model, data, tmp_path, fidelity, begun):
    module = model()
    sample = module.sample
    module.sample = lambda *args, **kwargs: sample(*args, **kwargs) * float("nan")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(2, begun(), fidelity()).fit(module, data())
    assert any("no fidelity at step 2" in str(each.message) for each in caught)
    assert module.training and rows(tmp_path) == {}


@pytest.mark.parametrize(
    "wrong, said",
    [
        ({"num_samples": 2}, "--num_samples|fidelity.num_samples"),
        ({"reference": "nothing"}, "no split 'nothing'"),
        ({"extractor": None}, "extractor"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_the_first_step(trainer, model, data, fidelity, wrong, said):
    with pytest.raises(UserError, match=said):
        trainer(2, fidelity(**wrong)).fit(model(), data())


def test_switched_off_it_asks_for_nothing(trainer, model, data):
    trainer(2, Fidelity()).fit(model(), data())
