"""The README's code runs, and its two commands stand there as they are."""

import re
import sys
import types
from pathlib import Path

import pytest
import torch

from lightning_gen.__main__ import main

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
BLOCKS = [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "class " in b]


@pytest.fixture
def mine(monkeypatch):
    """A module that holds every class the README shows how to add."""
    module = types.ModuleType("mine")
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), module.__dict__)
    for thing in list(vars(module).values()):
        if isinstance(thing, type) and thing.__module__ == "builtins":
            thing.__module__ = "mine"
    monkeypatch.setitem(sys.modules, "mine", module)
    return module


def test_the_two_commands():
    assert (
        "\n    python -m venv .venv && . .venv/bin/activate && pip install -e . && "
        "lightning-gen benchmark --config configs/benchmark/digits.yaml\n    pip install -e '.[test]' && pytest\n"
    ) in README


def test_additions_are_short():
    for block in BLOCKS:
        body = block[block.index("class ") :]
        assert len([line for line in body.splitlines() if line.strip()]) <= 15


def test_a_schedule(mine):
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    from lightning_gen.diffusion import FlowMatching

    torch.testing.assert_close(mine.Logistic(2.0).logsnr(t), FlowMatching().logsnr(t))
    schedule = mine.Logistic(3.0)
    torch.testing.assert_close(schedule.time(schedule.logsnr(t)), t)


def test_a_bijection(mine, tmp_path):
    """Its log-determinant is its Jacobian's, and a config names it among others."""
    x = 3 * torch.randn(4, 3, dtype=torch.float64)
    asinh = mine.Asinh((3,))
    z, log_det = asinh(x)
    jacobian = torch.func.vmap(torch.func.jacrev(lambda v: asinh(v[None])[0][0]))(x)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)
    torch.testing.assert_close(asinh.inverse(z), x)
    (tmp_path / "flow.yaml").write_text(
        "class_path: NormalizingFlow\n"
        "init_args: {flow: {class_path: Chain, init_args: {layers: [mine.Asinh, "
        "{class_path: Steps, init_args: {network: lightning_gen.networks.PlainMLP}}]}}}\n"
    )
    given = ["--model", str(tmp_path / "flow.yaml"), "--data", "datamodules.TwoMoons", "--trainer.max_steps=2"]
    assert main(["fit", *given, "--trainer.accelerator=cpu", "--run", str(tmp_path / "run")]) == 0


def test_a_schedule_of_discrete_diffusion(mine, tmp_path):
    """It falls from 1 to 0 as it says, and a config names it."""
    schedule, t = mine.Polynomial(3.0), torch.linspace(0, 1, 11, dtype=torch.float64, requires_grad=True)
    alpha = schedule.alpha(t)
    assert alpha[0] == 1 and alpha[-1] == 0
    torch.testing.assert_close(torch.autograd.grad(alpha.sum(), t)[0], schedule.dalpha_dt(t))
    model = str(ROOT / "configs" / "model" / "digits_masked_diffusion.yaml")
    given = ["--model", model, "--model.init_args.schedule", "mine.Polynomial", "--data", "datamodules.Digits"]
    more = ["--trainer.max_steps=2", "--trainer.accelerator=cpu", "--run", str(tmp_path / "run")]
    assert main(["fit", *given, *more]) == 0


def test_a_family_and_a_data_set(mine, tmp_path):
    """The README's last command: fit, then evaluate from the checkpoint alone."""
    given = ["--model", "mine.IndependentPixels", "--data", "mine.Stripes", "--model.init_args.optimizer.lr=0.1"]
    assert (
        main(["fit", *given, "--trainer.max_steps=30", "--trainer.accelerator=cpu", "--run", str(tmp_path / "run")])
        == 0
    )
    import lightning_gen

    module = lightning_gen.load(tmp_path / "run")
    likelihood = module.log_likelihood(mine.Stripes().split("test").x)
    assert likelihood.kind == "exact"
    assert likelihood.bits_per_dim().mean().item() == pytest.approx(1.0, abs=0.02)  # a coin a pixel is its best
    assert main(["evaluate", str(tmp_path / "run"), "--num_samples=100"]) == 0


def test_the_architecture_names_what_is_there():
    section = README[README.index("## Architecture") :]
    for path in re.findall(r"^    (\w+(?:\.py|/))", section, re.MULTILINE):
        assert (ROOT / "lightning_gen" / path).exists(), path
    names = (
        "judge.py",
        "features.py",
        "reference.py",
        "parts.py",
        "oracles.py",
        "module.py",
        "loaders.py",
        "loggers.py",
    )
    for name in (*names, "metrics_file.py", "specs.py", "array_cache.py"):
        assert name in section and list(ROOT.rglob(name)), name


def test_nothing_is_left_to_fill_in():
    assert "@" not in re.sub(r"`[^`]*`", "", README)
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (ROOT / picture).stat().st_size > 1000, picture
