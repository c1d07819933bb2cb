"""Laws of the noisy classifier: Bayes' rule is what it learns, at every noise level."""

import pytest
import torch

from lightning_gen.__main__ import main
from lightning_gen.diffusion import (
    Cosine,
    DiffusionSampler,
    LearnedLinear,
    TrainingSetDenoiser,
    VarianceExploding,
    VariancePreserving,
)
from lightning_gen.diffusion.classifier_module import NoisyClassifier
from lightning_gen.diffusion.second_models import ClassifierGuidance
from lightning_gen.diffusion.time_samplers import LogNormal, LossSecondMoment, Uniform
from lightning_gen.errors import IncompatibleAxes, NoLikelihood, UserError
from lightning_gen.networks import MLP
from lightning_gen.networks.classifier import UNetEncoder
from lightning_gen.random_source import GeneratorSource, LossDraws


def factory(shape, out, cond):
    return MLP(shape, out, cond, width=32, depth=2)


def classifier(seed=0, **kwargs):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        module = NoisyClassifier((1,), None, 2, factory, **kwargs)
        module.configure_model()
    return module


def draws(num, seed=0):
    return LossDraws(torch.arange(num), num, GeneratorSource(seed), GeneratorSource(seed + 1))


def data(num, seed=0):
    """x ~ N(+-1, 0.3^2), the sign being the class."""
    y = torch.arange(num) % 2
    return 2.0 * y[:, None] - 1 + 0.3 * torch.randn(num, 1, generator=torch.Generator().manual_seed(seed)), y


def truth(x_t, alpha, sigma):
    """log-odds of class 1: 2 alpha x_t / (0.09 alpha^2 + sigma^2)."""
    return 2 * alpha * x_t / (0.09 * alpha**2 + sigma**2)


@pytest.mark.parametrize("path", [VariancePreserving(), VarianceExploding(data_std=1.0)], ids=["VP", "VE"])
def test_it_learns_bayes_rule_at_every_level(path):
    module = classifier(path=path, schedule=Cosine(-8.0, 8.0)).train()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    for step in range(200):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 200)
        with module.drawing(draws(256, 2 * step)):
            loss = module.training_loss(*data(256, step))["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for logsnr in (-3.0, -1.0, 1.0, 3.0):
        level = torch.tensor(logsnr, dtype=torch.float64)
        alpha, sigma = (s.float() for s in path.scales(level)[:2])
        x_t = torch.linspace(-1.5, 1.5, 9)[:, None] * (alpha**2 + sigma**2).sqrt()
        with torch.no_grad():
            p = module.log_prob(x_t, level, torch.ones(9, dtype=torch.long)).exp()
            both = p + module.log_prob(x_t, level, torch.zeros(9, dtype=torch.long)).exp()
        torch.testing.assert_close(both, torch.ones(9))
        torch.testing.assert_close(p, truth(x_t[:, 0], alpha, sigma).sigmoid(), atol=0.08, rtol=0)


@pytest.mark.parametrize("make", [Uniform, lambda: LogNormal(-0.5, 2.0), LossSecondMoment])
def test_the_loss_is_the_mean_over_uniform_times_whichever_are_drawn(make):
    """A known classifier's cross-entropy: only the variance depends on the times."""
    schedule = Cosine(-6.0, 6.0)
    x, y = data(40_000)

    class Known(NoisyClassifier):
        def logits(self, x_t, level):
            odds = truth(x_t[:, 0], level.alpha, level.sigma)
            return torch.stack([torch.zeros_like(odds), odds], 1)

    def mean(time_sampler):
        module = Known((1,), None, 2, factory, schedule, time_sampler=time_sampler).train()
        with torch.random.fork_rng():
            module.configure_model()
        for seed in range(3):  # by the last the importance sampler has seen enough
            with module.drawing(draws(len(x), seed)), torch.no_grad():
                found = module.training_loss(x, y)
        return {name: part.mean() for name, part in found.items()}

    expected, found = mean(None), mean(make())
    assert found["loss"].item() == pytest.approx(expected["loss"].item(), rel=0.03)
    assert found["accuracy"].item() == pytest.approx(expected["accuracy"].item(), rel=0.03)
    assert 0.6 < expected["accuracy"] < 0.95


def test_the_time_sampler_takes_note_in_training_alone():
    times = LossSecondMoment()
    module = classifier(time_sampler=times)
    for mode, seen in ((module.eval, False), (module.train, True)):
        mode()
        with module.drawing(draws(64)):
            module.training_loss(*data(64))
        assert bool(times.seen.any()) == seen


def test_it_has_no_likelihood_and_draws_no_samples():
    module = classifier()
    with pytest.raises(NoLikelihood):
        module.log_likelihood(*data(4))
    with pytest.raises(UserError, match="ClassifierGuidance.*samples.every_n_steps"):
        module.sample(4)


def test_what_cannot_be_learned_is_refused():
    with pytest.raises(UserError, match="class labels"):
        NoisyClassifier((1,), None, None, factory)
    with pytest.raises(IncompatibleAxes, match="fixed schedule"):
        NoisyClassifier((1,), None, 2, factory, LearnedLinear())
    for y in (None, torch.randn(4, 8)):
        with pytest.raises(UserError, match="class labels"):
            classifier().training_loss(torch.zeros(4, 1), y)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of the shipped config, of a few steps."""
    from pathlib import Path

    run = tmp_path_factory.mktemp("runs") / "classifier"
    config = Path(__file__).resolve().parents[2] / "configs" / "experiment" / "digits_classifier.yaml"
    few = ["--trainer.max_steps=100", "--trainer.val_check_interval=100", "--data.init_args.batch_size=64"]
    few += ["--trainer.log_every_n_steps=100", "--model.init_args.lr_schedule=null"]
    assert main(["fit", "--config", str(config), "--run", str(run), *few]) == 0
    return run


def test_the_command_line_trains_it_and_says_how_often_it_is_right(trained):
    header, *rows = (line.split(",") for line in (trained / "metrics.csv").read_text().splitlines())
    found = {name: [float(row[i]) for row in rows if row[i]] for i, name in enumerate(header)}
    assert {"train/loss", "train/accuracy", "val/loss", "val/accuracy"} <= set(found)
    assert (
        found["val/accuracy"][-1] > 0.25 and "val/bits_per_dim" not in found
    )  # of ten classes, most of the time in noise


def test_it_guides_a_diffusion_to_the_class_from_its_run_directory(trained):
    """The diffusion being one that knows the training set and no labels: its samples are training images of that class."""
    from datamodules import Digits
    from lightning_gen.diffusion.decoders import LevelDecoder

    train = Digits(batch_size=64).split("train")
    examples = LevelDecoder(17).encode(train.x)
    memory = TrainingSetDenoiser(examples, VariancePreserving())
    y = torch.arange(120) % 10
    right = []
    for scale in (0.0, 3.0):
        guidance = ClassifierGuidance(str(trained), scale, weights="raw")
        with torch.no_grad():
            x = DiffusionSampler(steps=20, guidance=guidance).sample(
                memory, Cosine(), (120, 1, 8, 8), y, GeneratorSource(0)
            )
        nearest = torch.cdist(x.flatten(1), examples.flatten(1)).argmin(1)
        right.append((train.y[nearest] == y).float().mean().item())
    assert right[0] < 0.2 and right[1] > right[0] + 0.12, right  # as much as so short a training has taught it


def test_the_network_of_the_config_takes_its_place():
    module = NoisyClassifier((1, 8, 8), 17, 10, lambda *args: UNetEncoder(*args, channels=8, multipliers=(1, 2)))
    with torch.random.fork_rng():
        module.configure_model()
    x = torch.randint(17, (4, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with module.drawing(draws(4)):
        found = module.training_loss(x, torch.arange(4))
    assert found["loss"].mean().item() == pytest.approx(torch.tensor(10.0).log().item())  # untrained: every class alike
