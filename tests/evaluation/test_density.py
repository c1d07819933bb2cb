"""lightning-gen density: a picture and numbers of any run whose model has a density in the plane."""

import json
import math

import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

from lightning_gen.__main__ import main
from lightning_gen.evaluation import density as verb

MINE = '''
import math

import torch

from datamodules.base import DataModule, Examples
from lightning_gen.errors import NoLikelihood
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood

STD = 0.5


def log_normal(x, mean):
    return -0.5 * (x.double() - mean).square().sum(1) / STD**2 - math.log(2 * math.pi * STD**2)


class Cloud(DataModule):
    """A Gaussian in the plane."""

    shape, mean = (2,), 0.0

    def load(self):
        x = self.mean + STD * torch.randn(700, 2, generator=torch.Generator().manual_seed(1))
        return {"train": Examples(x[:50]), "val": Examples(x[50:100]), "test": Examples(x[100:])}


class KnownCloud(Cloud):
    def log_density(self, x):
        return log_normal(x, self.mean)

    def entropy(self):
        return math.log(2 * math.pi * math.e * STD**2)


class Labelled(KnownCloud):
    num_classes = 2

    def load(self):
        return {name: Examples(part.x, torch.arange(len(part)) % 2) for name, part in super().load().items()}


class Line(Cloud):
    shape = (3,)

    def load(self):
        return {name: Examples(part.x.repeat(1, 2)[:, :3]) for name, part in super().load().items()}


class Shifted:
    """An estimator: takes `by` nats off."""

    def __init__(self, by: float = 0.0):
        self.by = by


class Normal(GenerativeModule):
    """The density of Cloud, moved by `shift` on both axes."""

    def __init__(self, shift: float = 0.0, noise: float = 0.0, **kwargs):
        super().__init__(**kwargs)
        self.shift, self.noise, self.bound = shift, noise, Shifted()

    def build(self):
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_loss(self, x, y=None):
        return {"loss": self.weight**2}

    def log_likelihood(self, x, y=None, *, estimator=None, draws=1, rng=None):
        noise = self.noise * sum(rng.fork("draw", k).normal((len(x),)) for k in range(draws)) / draws
        off = torch.full_like(noise, -(estimator or self.bound).by)
        return Likelihood.from_terms({"normal": log_normal(x, self.shift), "off": off, "noise": noise}, "density", 2)

    def sample(self, num, y=None, *, sampler=None, rng=None):
        return self.shift + STD * (rng or self.default_rng(num)).normal((num, 2))


class Switched(Normal):
    """Its label 1 says nothing of the data, and has all of them far away."""

    conditional = True

    def log_likelihood(self, x, y=None, **kwargs):
        found = super().log_likelihood(x, **kwargs)
        return Likelihood(found.log_prob - 100.0 * y, "density", 2)


class Unbound(Normal):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        del self.bound

    def log_likelihood(self, x, y=None, *, estimator=None, draws=1, rng=None):
        return Likelihood(log_normal(x, self.shift), "density", 2)


class Silent(Normal):
    def log_likelihood(self, x, y=None, **kwargs):
        raise NoLikelihood("Silent has no likelihood")


class Lost(Normal):
    def log_likelihood(self, x, y=None, **kwargs):
        return Likelihood(torch.full((len(x),), torch.nan), "density", 2)
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clouds")
    (folder / "clouds_of_density.py").write_text(MINE)
    return folder


@pytest.fixture
def fitted(folder, monkeypatch):
    """fitted(model="Normal", data="KnownCloud", *args): a run of one step, made at the first call."""
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))

    def function(model="Normal", data="KnownCloud", *args):
        run = folder / "-".join((model, data, *args)).replace("/", "")
        if not run.exists():
            what = ["--model", f"clouds_of_density.{model}", "--data", f"clouds_of_density.{data}", *args]
            how = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--samples.every_n_steps=0"]
            assert main(["fit", *what, *how, "--run", str(run)]) == 0
        return run

    return function


@pytest.fixture
def shown(tmp_path, monkeypatch):
    """shown(run, *args): density.json of `density`, and the axes of its picture."""
    figures = []

    def kept(*args):
        figures.append(portrait(*args))
        return figures[-1]

    portrait = verb.portrait
    monkeypatch.setattr(verb, "portrait", kept)

    def function(run, *args):
        out = tmp_path / f"out-{len(figures)}"
        assert main(["density", str(run), f"--out={out}", "--device=cpu", "--side=40", "--num=300", *args]) == 0
        return json.loads((out / "density.json").read_text()), figures[-1]

    return function


def test_a_model_that_is_the_data_has_no_divergence_from_them(fitted, shown, capsys):
    found, figure = shown(fitted())
    metrics, settings = found["metrics"], found["settings"]
    entropy = math.log(2 * math.pi * math.e / 4)
    assert metrics["integral"] == pytest.approx(1, abs=1e-3) and metrics["integral_of_data"] == metrics["integral"]
    assert abs(metrics["kl_nats"]) < 1e-6 and metrics["kl_nats_se"] < 1e-6
    assert metrics["entropy_nats"] == pytest.approx(entropy)
    assert abs(metrics["log_prob_nats"] + entropy) < 4 * metrics["log_prob_nats_se"]
    assert metrics["log_prob_nats_se"] == pytest.approx(1 / math.sqrt(600), rel=0.15)  # of half a chi square of 2
    expected = {
        "split": "test",
        "num_examples": 600,
        "likelihood_kind": "density",
        "labels_in_mixture": None,
        "seed": 0,
    }
    assert (
        expected.items() <= settings.items() and settings["model"] == "Normal" and settings["weights"].startswith("ema")
    )
    said = capsys.readouterr().out.splitlines()
    assert "kl_nats 0" in said[-2] and said[-2].endswith("(density)")
    assert isinstance(figure, Figure)


def test_a_model_beside_the_data_diverges_by_what_is_known(fitted, shown):
    found, figure = shown(fitted("Normal", "KnownCloud", "--model.init_args.shift=0.5"))
    kl, error = found["metrics"]["kl_nats"], found["metrics"]["kl_nats_se"]
    assert abs(kl - 1.0) < 4 * error and error == pytest.approx(math.sqrt(2 / 600), rel=0.15)
    data, model, samples, _ = figure.axes
    assert data.get_title().startswith("data, exact") and model.get_title().startswith("model, density\nKL ")
    limits = found["settings"]["grid"]["limits"]
    ticks = [torch.linspace(low, high, 40, dtype=torch.float64) for low, high in limits]
    for axes, mean in ((data, 0.0), (model, 0.5)):
        density = torch.as_tensor(axes.images[0].get_array())
        weight = density / density.sum()
        assert (weight.sum(0) * ticks[0]).sum() == pytest.approx(mean, abs=5e-3)
        assert (weight.sum(1) * ticks[1]).sum() == pytest.approx(mean, abs=5e-3)
    points = torch.as_tensor(samples.collections[0].get_offsets().data)
    assert points.shape == (300, 2) and (points.mean(0) - 0.5).abs().max() < 4 * 0.5 / math.sqrt(300)


def test_where_the_data_are_not_known_their_examples_stand_beside_the_samples(fitted, shown, folder):
    found, figure = shown(fitted("Normal", "Cloud"), "--split=val")
    assert set(found["metrics"]) == {"integral", "log_prob_nats", "log_prob_nats_se"}
    model, samples, examples, _ = figure.axes
    assert len(model.images) == 1 and len(samples.collections[0].get_offsets()) == 300
    assert len(examples.collections[0].get_offsets()) == 50 and examples.get_title().startswith("50 examples (val)")


def test_the_files_are_there_and_nothing_else(fitted):
    run = fitted()
    assert main(["density", str(run), "--device=cpu", "--side=9", "--num=5", "--range=2"]) == 0
    assert {file.name for file in (run / "density").iterdir()} == {"density.png", "density.json"}
    with Image.open(run / "density" / "density.png") as picture:
        assert picture.width > 2 * picture.height
    grid = json.loads((run / "density" / "density.json").read_text())["settings"]["grid"]
    assert grid["side"] == 9 and all(high - low == pytest.approx(4) for low, high in grid["limits"])


def test_the_batch_changes_nothing_and_the_seed_the_noise(fitted, shown):
    run = fitted("Normal", "KnownCloud", "--model.init_args.noise=0.3")
    first, batched, other = (shown(run, *args) for args in ([], ["--batch_size=77"], ["--seed=1"]))
    assert first[0]["metrics"] == pytest.approx(batched[0]["metrics"], rel=1e-9)
    arrays = [[axes.images[0].get_array() for axes in each.axes[:2]] for _, each in (first, batched, other)]
    offsets = [each.axes[2].collections[0].get_offsets() for _, each in (first, batched, other)]
    assert (arrays[0][1] == arrays[1][1]).all() and (offsets[0] == offsets[1]).all()
    assert not (arrays[0][1] == arrays[2][1]).all() and not (offsets[0] == offsets[2]).any()
    error = 0.3 / math.sqrt(16 * 600)  # 16 draws each
    assert first[0]["metrics"]["kl_nats_se"] == pytest.approx(error, rel=0.15)
    assert "integral" not in first[0]["metrics"] and "noise" in first[0]["left_out"]["integral"]
    assert first[1].axes[1].get_title().endswith("no integral: noisy")


def test_the_estimator_is_the_one_asked_for(fitted, shown):
    found, _ = shown(fitted(), "--estimator.by=0.25")
    assert found["metrics"]["kl_nats"] == pytest.approx(0.25)
    assert found["metrics"]["integral"] == pytest.approx(math.exp(-0.25), abs=1e-3)
    assert found["settings"]["estimator"]["init_args"] == {"by": 0.25}


def test_a_conditional_model_is_judged_as_the_mixture_of_its_labels(fitted, shown):
    found, figure = shown(fitted("Switched", "Labelled"))
    assert found["settings"]["labels_in_mixture"] == 2 and "mixture of 2 labels" in figure.axes[1].get_title()
    assert found["metrics"]["kl_nats"] == pytest.approx(math.log(2))
    assert found["metrics"]["integral"] == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("model", "data", "args", "word"),
    [("Normal", "Line", [], "shape (3,)"), ("Silent", "KnownCloud", [], "Silent has no likelihood"),
     ("Lost", "KnownCloud", [], "NaN"), ("Unbound", "KnownCloud", ["--estimator.by=1"], "leave out --estimator"),
     ("Normal", "KnownCloud", ["--num=0"], "--num"), ("Normal", "KnownCloud", ["--side=1"], "--side"),
     ("Normal", "KnownCloud", ["--batch_size=0"], "--batch_size"), ("Normal", "KnownCloud", ["--draws=0"], "--draws"),
     ("Normal", "KnownCloud", ["--range=0"], "--range"), ("Normal", "KnownCloud", ["--split=nowhere"], "nowhere"),
     ("Normal", "KnownCloud", ["--weights=other"], "weights"), ("Normal", "KnownCloud", ["--estimator.k=1"], "'k'")],
)  # fmt: skip
def test_what_cannot_be_drawn_is_refused_in_one_line(fitted, tmp_path, capsys, model, data, args, word):
    run = fitted(model, data)
    capsys.readouterr()
    how = ["--side=5", f"--out={tmp_path / 'out'}", "--device=cpu"]
    assert main(["density", str(run), *how, *args]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_integers_are_no_points_of_the_plane(trained, capsys):
    run = trained()
    assert main(["density", str(run), "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert "integers of 5 levels" in error and error.count("\n") == 1
