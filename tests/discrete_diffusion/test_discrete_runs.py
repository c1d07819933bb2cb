"""Discrete diffusion trained: a stop leaves no trace, ranks and precisions change what they may, every verb takes a run."""

import csv
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import lightning_gen
from datamodules import Digits, Text
from lightning_gen.__main__ import main
from lightning_gen.discrete_diffusion import (
    Absorbing,
    Ancestral,
    AnyOrder,
    ClassifierFree,
    Confidence,
    Cosine,
    DiscreteDiffusion,
    DiscretizedGaussian,
    DiscretizedLogistic,
    Ordinal,
    Uniform,
    VariationalBound,
)
from lightning_gen.generative_module import EVALUATION_SEED
from lightning_gen.networks import Transformer, UNet
from lightning_gen.random_source import GeneratorSource, IndexedSource, LossDraws
from lightning_gen.run_directory import checkpoint_files

ROOT = Path(__file__).resolve().parents[2]
FIT = [
    *("fit", "--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.log_every_n_steps=1"),
    *("--trainer.val_check_interval=3", "--checkpoints.every_n_steps=3", "--samples.every_n_steps=0"),
]
DIGITS = ["--data=datamodules.Digits", "--data.init_args={batch_size: 32, eval_batch_size: 75}"]
TEXT = ["--data=datamodules.Text", "--data.init_args={length: 16, batch_size: 32, eval_batch_size: 40}"]
UNET = "{class_path: lightning_gen.networks.UNet, init_args: {channels: 8, multipliers: [1], blocks: 1, attention: []}}"
GAUSSIAN = f"""
class_path: DiscreteDiffusion
init_args:
  network: {UNET}
  process: DiscretizedGaussian
  schedule: lightning_gen.discrete_diffusion.Linear
  steps: 40
  encoding: lightning_gen.discrete_diffusion.Ordinal
  head: lightning_gen.discrete_diffusion.DiscretizedLogistic
  objective: {{class_path: lightning_gen.discrete_diffusion.Bound, init_args: {{cross_entropy: 0.01}}}}
"""
CONDITIONAL = f"""
class_path: DiscreteDiffusion
init_args:
  network: {UNET}
  process: Absorbing
  timeless: true
  conditioner: {{class_path: lightning_gen.networks.ClassEmbedding, init_args: {{dim: 8}}}}
  sampler:
    class_path: lightning_gen.discrete_diffusion.Ancestral
    init_args: {{steps: 6, guidance: {{class_path: ClassifierFree, init_args: {{scale: 2.0}}}}}}
"""
ORDERED = f"""
class_path: DiscreteDiffusion
init_args:
  network: {UNET}
  process: OrderedAbsorbing
"""
CHARACTERS = """
class_path: DiscreteDiffusion
init_args:
  network: {class_path: lightning_gen.networks.Transformer, init_args: {width: 16, depth: 1, heads: 2}}
  process: Absorbing
"""
KINDS = {
    "gaussian": (GAUSSIAN, DIGITS),
    "conditional": (CONDITIONAL, DIGITS),
    "ordered": (ORDERED, DIGITS),
    "text": (CHARACTERS, TEXT),
}


@pytest.fixture(scope="module")
def fit(tmp_path_factory):
    """fit(kind, name, *more, steps=6): the run directory it leaves, with no name that of the plain run, made once."""
    folder, whole = tmp_path_factory.mktemp("runs"), {}

    def function(kind: str, name: str | None = None, *more: str, steps: int = 6) -> Path:
        if name is None:
            whole[kind] = whole.get(kind) or function(kind, "whole")
            return whole[kind]
        model, data = KINDS[kind]
        (folder / "model.yaml").write_text(model)
        args = [*FIT, *data, f"--model={folder / 'model.yaml'}", f"--trainer.max_steps={steps}", *more]
        run = folder / kind / name
        run.parent.mkdir(exist_ok=True)
        if "--trainer.devices=2" not in more:
            assert main([*args, "--run", str(run)]) == 0
            return run
        command = [sys.executable, "-m", "lightning_gen", *args, "--run", str(run)]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        made = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=env)
        assert made.returncode == 0, made.stderr
        return run

    return function


def metrics(run: Path) -> list[dict[str, str]]:
    with open(run / "metrics.csv", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("kind", ["gaussian", "conditional", "text"])
def test_a_run_that_stopped_is_the_one_that_did_not(kind, fit, same_end):
    """Bit for bit, weights, averages, optimizer and what was measured, of which the names are these."""
    whole, halves = fit(kind), fit(kind, "halves", steps=3)
    assert fit(kind, "halves") == halves
    same_end(halves, whole)
    parts = ["bound", "cross_entropy"] if kind == "gaussian" else []
    terms = ["prior", "diffusion", "reconstruction", "log_prob_nats", "bits_per_dim"]
    row = metrics(whole)[-1]
    assert {name for name in row if name.startswith("train/")} == {f"train/{name}" for name in ("loss", *parts)}
    assert {name for name in row if name.startswith("val/")} == {f"val/{name}" for name in ("loss", *parts, *terms)}
    if parts:
        assert float(row["train/loss"]) == pytest.approx(sum(float(row[f"train/{name}"]) for name in parts), rel=1e-5)


def test_two_ranks_train_as_one(fit):
    """Noise is each rank's own, but an ordered process has none: what it masks follows from t, a stratum of the whole batch."""
    # not Adam, whose first steps have the size of the rate even where a gradient is rounding
    plain = "--model.init_args.optimizer={class_path: torch.optim.SGD, init_args: {lr: 0.05}}"
    alone = fit("ordered", "alone", plain)
    together = fit("ordered", "together", plain, "--trainer.devices=2", "--trainer.strategy=ddp")
    states = [torch.load(checkpoint_files(run)[0], weights_only=True)["state_dict"] for run in (alone, together)]
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-4, atol=1e-5)
    rows = [metrics(run) for run in (alone, together)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for one, two in zip(*rows):
        for name in (name for name in one if name.startswith(("train/", "val/")) and one[name]):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=1e-4, abs=1e-4), name


@pytest.mark.parametrize(
    "more",
    [
        ["--trainer.precision=bf16-mixed", "--trainer.gradient_clip_val=1.0"],
        ["--trainer.precision=bf16-true"],
        pytest.param(["--model.init_args.compile=true"], marks=pytest.mark.slow),
    ],
    ids=["bf16-mixed", "bf16-true", "compiled"],
)
@pytest.mark.parametrize("kind", ["gaussian", "conditional"])
def test_cheaper_training_is_nearly_the_same_training(kind, more, fit):
    """What no weight has a part in is the same, and the rest is near. (Weights in bfloat16 start elsewhere.)"""
    rows = [metrics(run) for run in (fit(kind), fit(kind, more[0].rpartition("=")[0] + more[0][-5:], *more))]
    names = ("val/bits_per_dim",) if "bf16-true" in more[0] else ("train/loss", "val/bits_per_dim")
    for one, two in zip(*rows, strict=True):
        for name in (name for name in names if one[name]):
            assert float(two[name]) == pytest.approx(float(one[name]), rel=0.05), name
        if one["val/prior"]:
            assert float(two["val/prior"]) == pytest.approx(float(one["val/prior"]), rel=1e-6)


@pytest.mark.parametrize("kind", ["gaussian", "conditional", "text"])
def test_a_run_reloads_with_its_likelihoods(kind, fit):
    """The number of the last validation, which the averaged weights had; and bit for bit whenever it is loaded."""
    run = fit(kind)
    examples = (Text(length=16) if kind == "text" else Digits()).split("val")
    first, again = (lightning_gen.load(path) for path in (run, checkpoint_files(run)[0]))
    assert first.weights == again.weights == "ema:0.999"

    def reported(module):
        rng = IndexedSource(EVALUATION_SEED, range(len(examples))).fork("likelihood")
        batch = examples.take(torch.arange(len(examples)))
        return module.log_likelihood(batch.x, batch.y, rng=rng).log_prob

    assert torch.equal(reported(first), reported(again)) and torch.equal(first.sample(4), again.sample(4))
    validated = float(metrics(run)[-1]["val/log_prob_nats"])
    assert float(reported(first).mean()) == pytest.approx(validated, rel=1e-5)
    raw = lightning_gen.load(run, weights="raw")
    assert not torch.equal(reported(raw), reported(first))


# ---- the verbs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits_run(tmp_path_factory):
    """A masked diffusion of digits after two steps."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "model.yaml").write_text(CONDITIONAL)
    args = [*FIT, *DIGITS, f"--model={folder / 'model.yaml'}", "--trainer.max_steps=2", "--run", str(folder / "run")]
    assert main(args) == 0
    return folder / "run"


def test_a_film_unmasks_samples(digits_run, tmp_path):
    """From nothing to the samples; a mask stays one or becomes what the sample has."""
    sheets = [["--out", str(tmp_path / "x.pt")], ["--film", "5", "--out", str(tmp_path / "film.pt")]]
    for more in sheets:
        assert main(["sample", str(digits_run), "--num", "6", *more]) == 0
    x, film = (torch.load(tmp_path / name, weights_only=True) for name in ("x.pt", "film.pt"))
    assert film.shape == (6, 5, 1, 8, 8) and torch.equal(film[:, -1], x.long()) and (film[:, 0] == -1).all()
    assert ((film == -1) | (film == film[:, -1:])).all()
    shown = (film >= 0).flatten(2).sum((0, 2))
    assert (shown.diff() > 0).all()
    assert main(["sample", str(digits_run), "--num", "4", "--film", "4", "--out", str(tmp_path / "film.gif")]) == 0
    assert (tmp_path / "film.gif").stat().st_size > 100


@pytest.mark.parametrize(
    ("more", "sampler"),
    [
        (["--sampler.steps=4"], Ancestral(4, ClassifierFree(2.0))),  # guided still
        (["--sampler=Confidence", "--sampler.steps=3"], Confidence(3)),
        (["--sampler=AnyOrder", "--sampler.at_once=16"], AnyOrder(16)),
        (["--sampler=Ancestral", "--sampler.steps=5", "--sampler.temperature=0.7"], Ancestral(5, temperature=0.7)),
    ],
    ids=["steps", "confidence", "any order", "temperature"],
)
def test_samplers_are_chosen_at_the_command_line(more, sampler, digits_run, tmp_path):
    assert main(["sample", str(digits_run), "--num", "4", "--out", str(tmp_path / "x.pt"), *more]) == 0
    expected = lightning_gen.load(digits_run).sample(4, sampler=sampler)
    assert torch.equal(torch.load(tmp_path / "x.pt", weights_only=True), expected)


@pytest.mark.parametrize(
    ("more", "nfe"),
    [(["--sampler.steps=4"], 8), (["--sampler=AnyOrder", "--sampler.at_once=16"], 4), (["--nfe=6"], 6)],
    ids=["steps", "any order", "budget"],
)
def test_an_evaluation_says_what_a_sample_costs(more, nfe, digits_run):
    how = ["--num_samples", "70", "--name", "cost", "--likelihood.draws", "0", *more]
    assert main(["evaluate", str(digits_run), *how]) == 0
    found = json.loads((digits_run / "evaluation" / "cost.json").read_text())
    settings = found["settings"]
    assert nfe == (settings["nfe_mean"] if settings["nfe"] is None else settings["nfe"]) and found["metrics"]["fd"] > 0


def test_an_order_is_evaluated_exactly(fit):
    run = fit("ordered", "short", steps=2)
    exact = ["--likelihood.estimator.exact", "true", "--likelihood.draws", "1"]
    assert main(["evaluate", str(run), "--num_samples", "0", "--name", "exact", *exact]) == 0
    found = json.loads((run / "evaluation" / "exact.json").read_text())
    assert found["settings"]["likelihood_kind"] == "exact"
    module, x = lightning_gen.load(run), Digits().split("test").x
    log_prob = module.log_likelihood(x, estimator=VariationalBound(exact=True)).bits_per_dim().mean().item()
    assert found["metrics"]["bits_per_dim"] == pytest.approx(log_prob, rel=1e-6)


def test_holes_of_digits_are_filled(digits_run, tmp_path):
    how = ["--num", "5", "--fillings", "2", "--imputer.sampler.steps", "3", "--out", str(tmp_path)]
    assert main(["impute", str(digits_run), *how]) == 0
    filled = torch.load(tmp_path / "imputations.pt", weights_only=True)
    known, fillings = filled["known"].expand(5, 1, 8, 8)[:, None].expand(5, 2, 1, 8, 8), filled["fillings"]
    assert torch.equal(fillings[known], filled["x"][:, None].expand_as(fillings)[known])
    assert not torch.equal(fillings[:, 0], fillings[:, 1]) and (tmp_path / "imputations.png").stat().st_size > 100
    settings = json.loads((tmp_path / "imputations.json").read_text())["settings"]
    assert settings["imputer"]["init_args"]["sampler"]["init_args"]["steps"] == 3


def test_a_grid_of_processes_is_ranked(tmp_path):
    """Two cells of the shipped benchmark, but of fewer steps."""
    plan = yaml.safe_load((ROOT / "configs" / "benchmark" / "discrete.yaml").read_text())
    plan["experiment"] = str(ROOT / "configs" / "experiment" / Path(plan["experiment"]).name)
    kept = {"process": ("uniform", "absorbing"), "schedule": ("mutual_information",), "steps": ("16",)}
    plan["axes"] = {axis: {name: plan["axes"][axis][name] for name in names} for axis, names in kept.items()}
    plan["overrides"] |= {"trainer.max_steps": 4, "trainer.val_check_interval": 4, "data.init_args.batch_size": 16}
    plan["overrides"] |= {"model.init_args.network.init_args.channels": 8, "trainer.log_every_n_steps": 2}
    plan["evaluation"] |= {"num_samples": 70, "likelihood": {"draws": 1}, "sampler.steps": 4}
    plan["baseline"] = "absorbing-mutual_information-16"
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    assert main(["benchmark", "--config", str(tmp_path / "plan.yaml"), "--out", str(tmp_path / "out")]) == 0
    with open(tmp_path / "out" / "table.csv") as file:
        table = {row["process"]: row for row in csv.DictReader(file)}
    for process in ("uniform", "absorbing"):
        assert 2 < float(table[process]["bits_per_dim"]) < 6 and float(table[process]["fd"]) > 0
        assert table[process]["likelihood_kind"] == "elbo"


# ---- precision ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def made():
    """made(process, **kwargs): a model of digits whose weights are 0.1 from their start."""

    def function(process, **kwargs) -> DiscreteDiffusion:
        torch.manual_seed(0)
        network = partial(UNet, channels=8, multipliers=[1], blocks=1, attention=[])
        module = DiscreteDiffusion((1, 8, 8), 17, None, network, process, **kwargs)
        module.configure_model()
        with torch.no_grad():
            for p in module.parameters():
                p.add_(0.1 * torch.randn_like(p))
        return module.eval()

    return function


def gaussian():
    return {"process": DiscretizedGaussian(), "steps": 30, "encoding": Ordinal(), "head": DiscretizedLogistic()}


PROCESSES = [
    lambda: {"process": Absorbing()},
    lambda: {"process": Uniform(), "schedule": Cosine(), "steps": 30},
    gaussian,
]


def loss(module, x):
    own = IndexedSource(0, range(len(x)))
    with module.drawing(LossDraws(torch.arange(len(x)), len(x), GeneratorSource(0), own)):
        return module.training_loss(x)["loss"].mean()


@pytest.mark.parametrize("given", PROCESSES, ids=["absorbing", "uniform", "gaussian"])
def test_probabilities_are_float32_whatever_the_network_computes_in(given, made):
    """Under autocast, and with weights in bfloat16: losses and likelihoods are near, and samples are of all levels."""
    module, x = made(**given()), Digits().split("val").x[:40]
    expected = loss(module, x).item(), module.log_likelihood(x).log_prob.mean().item()
    told = torch.zeros(40)

    def check():
        assert module.predictor(x.long(), told).dtype == torch.float32
        found = loss(module, x), module.log_likelihood(x)
        assert found[0].dtype == torch.float32 and found[1].log_prob.dtype == torch.float64
        assert found[0].item() == pytest.approx(expected[0], rel=0.03)
        assert found[1].log_prob.mean().item() == pytest.approx(expected[1], rel=0.03)
        samples = module.sample(20)
        assert len(samples.unique()) == 17 and samples.max() == 16
        return found[0]

    with torch.autocast("cpu", torch.bfloat16):
        check().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    module.bfloat16()
    check()


def process_says(process, x):
    """All that a loss, a likelihood and a sampler ask of it, of a given log w."""
    t, rng = torch.full((len(x),), 0.4, dtype=torch.float64), GeneratorSource(0)
    log_w = torch.randn(*x.shape, 17, generator=torch.Generator().manual_seed(1), dtype=torch.float32).log_softmax(-1)
    x_t = process.diffuse(x.long(), t, rng)
    asked = (x.long(), x_t, log_w, t)
    yield from (process.nats(*asked), process.cross_entropy(*asked), process.kl_to_prior(x.long()))
    yield from (process.log_reverse(x_t, log_w, 0.5 * t, t), x_t, process.step(x_t, log_w, 0.5 * t, t, rng))


@pytest.mark.parametrize("given", PROCESSES, ids=["absorbing", "uniform", "gaussian"])
def test_a_process_knows_no_low_precision(given, made):
    """Bit for bit, under autocast and where the Trainer builds in bfloat16 and casts what was built."""
    x = Digits().split("val").x[:20]
    expected = list(process_says(made(**given()).process, x))
    torch.set_default_dtype(torch.bfloat16)
    try:
        module = made(**given()).bfloat16()
        found = list(process_says(module.process, x))
    finally:
        torch.set_default_dtype(torch.float32)
    assert next(module.network.parameters()).dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        mixed = list(process_says(made(**given()).process, x))
    for one, two, three in zip(expected, found, mixed, strict=True):
        assert one.dtype == two.dtype == three.dtype and torch.equal(one, two) and torch.equal(one, three)


@pytest.mark.parametrize("given", [lambda: {"process": Absorbing()}, gaussian], ids=["absorbing", "gaussian"])
def test_a_compiled_network_is_the_network(given, made):
    """By the backend that traces and does not generate code."""
    module, x = made(**given()), Digits().split("val").x[:10]
    expected = loss(module, x).item(), module.sample(4)
    for network in module.networks():
        network.compile(backend="eager")
    assert loss(module, x).item() == pytest.approx(expected[0], rel=1e-5)
    assert torch.equal(module.sample(4), expected[1])


# ---- what can be learned is known -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", [{"process": Absorbing()}, {"process": Uniform(), "steps": 40}], ids=str)
def test_a_trained_model_comes_near_the_entropy(process):
    """Of sequences whose four characters are alike, in shares of 1, 2 and 5; never below it by more than chance."""
    p = torch.tensor([1, 2, 5]) / 8
    torch.manual_seed(0)
    network = partial(Transformer, width=24, depth=1, heads=2)
    module = DiscreteDiffusion((4,), 3, None, network, schedule=Cosine(), **process)
    module.configure_model()
    optimizer = torch.optim.Adam(module.parameters(), 1e-2, fused=True)
    for _ in range(150):
        optimizer.zero_grad()
        x = p.multinomial(256, replacement=True)[:, None].expand(256, 4)
        module.training_loss(x.to(torch.uint8))["loss"].mean().backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
    module.eval()
    x = torch.arange(3).repeat_interleave(torch.tensor([100, 200, 500]))[:, None].expand(800, 4).to(torch.uint8)
    log_prob = module.log_likelihood(x, draws=8).log_prob
    entropy, error = float(torch.special.entr(p).sum()), float(log_prob.std()) / len(log_prob) ** 0.5
    assert -4 * error < -float(log_prob.mean()) - entropy < 0.25
    drawn = module.sample(400)
    assert (drawn == drawn[:, :1]).all(1).double().mean() > 0.9
