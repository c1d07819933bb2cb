"""One yardstick, many ways to sample."""

import pytest

from lightning_gen import loading
from lightning_gen.errors import UserError
from lightning_gen.evaluation.judge import Judge
from lightning_gen.evaluation.protocol import LikelihoodProtocol, Protocol

pytestmark = pytest.mark.usefixtures("standing")


class Counted:
    """A sampler that a test can look into."""

    def __init__(self, steps: int = 3, eta: float = 0.0) -> None:
        self.steps, self.eta = steps, eta

    @property
    def nfe(self):
        return 2 * self.steps


@pytest.fixture
def judged(trained):
    """(a model with a sampler, a judge of it)."""
    checkpoint = loading.read_checkpoint(trained())
    module = loading.from_checkpoint(checkpoint)
    module.sampler = Counted()
    return module, Judge(loading.load_data(checkpoint), Protocol(likelihood=LikelihoodProtocol(1)))


def test_another_way_is_measured_on_the_same_yardstick(judged):
    module, judge = judged
    other = judge.under(Protocol(sampler={"eta": 1.0}, nfe=11, likelihood=LikelihoodProtocol(2)))
    assert other._reference is judge._reference and other.extractor is judge.extractor
    one, two = judge.of_model(module), other.of_model(module)
    assert one.settings["nfe"] == 6 and one.settings["draws"] == 1
    assert two.settings["nfe"] == 10 and two.settings["draws"] == 2
    assert two.settings["sampler"]["init_args"] == {"steps": 5, "eta": 1.0}
    assert one.metrics["fd"] == two.metrics["fd"]  # Coins look at no sampler
    assert judge.depends_on(module)["samples"] != other.depends_on(module)["samples"]
    assert other.timing()["seconds"]["total"] < judge.timing()["seconds"]["total"]


def test_a_likelihood_depends_on_no_sampler(judged):
    module, judge = judged
    others = [judge.under(Protocol(nfe=nfe, likelihood=LikelihoodProtocol(1))) for nfe in (2, 8)]
    assert len({str(each.depends_on(module)["likelihood"]) for each in (judge, *others)}) == 1
    assert len({str(each.depends_on(module)["samples"]) for each in (judge, *others)}) == 3


@pytest.mark.parametrize("field", [{"num_samples": 7}, {"reference": "val"}, {"seed": 1}, {"batch_size": 3}])
def test_another_yardstick_needs_another_judge(judged, field):
    with pytest.raises(ValueError, match="another judge"):
        judged[1].under(Protocol(**field))


def test_evaluations_of_a_benchmark_are_its_own(tmp_path):
    from lightning_gen.evaluation.evaluate import evaluate

    for name in ("benchmark", "benchmark-ddim-5"):
        with pytest.raises(UserError, match=f"--name {name} is what the benchmark measured"):
            evaluate(str(tmp_path / "cells" / "x"), name=name)
