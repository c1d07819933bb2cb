"""HierarchicalVAE as a LightningModule: it learns, says what each layer costs, and refuses what has no meaning."""

import csv
from functools import partial

import pytest
import torch

import lightning_gen
from datamodules.base import DataModule, Examples
from lightning_gen.errors import UserError
from lightning_gen.networks import ClassEmbedding, MLPBlock
from lightning_gen.random_source import GeneratorSource, IndexedSource
from lightning_gen.specs import build
from lightning_gen.vae import (
    ELBO,
    IWAE,
    Bernoulli,
    BottomUpInference,
    ElboEstimator,
    FixedGaussian,
    HierarchicalVAE,
    ImportanceWeightedBound,
    PrecisionWeighted,
    PseudoGibbs,
    Refined,
    TopDownInference,
)

SHAPE = (1, 4, 4)
BLOCK = partial(MLPBlock, depth=1)


def made(**kwargs) -> HierarchicalVAE:
    torch.manual_seed(0)
    settings = {"block": BLOCK, "latent_shapes": [4, 2], "widths": [16, 8], "observation": Bernoulli()} | kwargs
    module = HierarchicalVAE(SHAPE, 2, 4, **settings)
    module.configure_model()
    return module


def bars(num: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """A row or column of four is set, with a little noise: two bits of what, one of which way; and the label, which."""
    generator = torch.Generator().manual_seed(seed)
    which, down = torch.randint(4, (num,), generator=generator), torch.randint(2, (num,), generator=generator)
    x = torch.zeros(num, 4, 4)
    x[torch.arange(num), which] = 1.0
    x = torch.where(down[:, None, None].bool(), x.mT, x)
    flipped = torch.rand(x.shape, generator=generator) < 0.02
    return torch.where(flipped, 1 - x, x)[:, None].to(torch.uint8), which


class Bars(DataModule):
    shape, levels, num_classes = SHAPE, 2, 4

    def load(self) -> dict[str, Examples]:
        return {name: Examples(*bars(200, seed)) for seed, name in enumerate(("train", "val", "test"))}


INFERENCES = {
    "bottom-up": BottomUpInference,
    "ladder": TopDownInference,
    "precision-weighted": lambda: TopDownInference(PrecisionWeighted()),
}
EVERY = pytest.mark.parametrize("inference", INFERENCES.values(), ids=INFERENCES.keys())


def trained(module: HierarchicalVAE, steps: int) -> HierarchicalVAE:
    x, y = bars(2000)
    module.initialize(x, y)
    optimizer = torch.optim.Adam(module.train().parameters(), 2e-2)
    for step in range(steps):
        rows = torch.randint(len(x), (100,), generator=torch.Generator().manual_seed(step))
        loss = module.training_loss(x[rows], y[rows])["loss"].mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return module.eval()


@EVERY
def test_it_learns(inference):
    """Independent pixels at their frequencies, 1/4 each with noise, cost 9.1 nats; the truth costs log 8 + 1.6 = 3.7."""
    module, (x, _) = made(inference=inference()), bars(500, seed=9)
    module.initialize(*bars(2000))
    assert module.log_likelihood(x).log_prob.mean() < -8.5
    assert trained(module, 200).log_likelihood(x).log_prob.mean() > -7.2


@EVERY
@torch.no_grad()
def test_the_reported_bound_knows_nothing_of_the_loss(inference):
    plain, knobs = (made(inference=inference(), objective=o) for o in (ELBO(), ELBO(0.1, 10, 3.0)))
    knobs.load_state_dict(plain.state_dict())
    x, _ = bars(50)
    for estimator in (ElboEstimator(), ImportanceWeightedBound(5)):
        one, other = (m.log_likelihood(x, estimator=estimator).log_prob for m in (plain, knobs))
        assert torch.equal(one, other)


@EVERY
@torch.no_grad()
def test_powers_and_samples_are_in_the_datas_domain(inference):
    module, (x, _) = made(inference=inference()).eval(), bars(6)
    assert module.latents == 6
    z = module.encode(x, rng=IndexedSource(0, range(6)))
    assert z.shape == (6, 6)
    for images in (module.decode(z), module.reconstruct(x), module.sample(6)):
        assert images.shape == x.shape and images.dtype == torch.uint8 and images.max() <= 1
    assert torch.equal(module.sample(6)[4:], module.sample(6, rng=IndexedSource(0, range(6)))[4:])
    assert module.interpolate(x[:2], x[2:4], 5).shape == (2, 5, *SHAPE)
    mask = torch.zeros(SHAPE, dtype=torch.bool)
    mask[:, 0] = True
    filled = module.impute(x, mask, imputer=PseudoGibbs(3))
    assert torch.equal(filled[:, :, 0], x[:, :, 0])


def test_a_conditional_hierarchy_follows_its_labels():
    conditioner = partial(ClassEmbedding, dim=4)
    module = trained(made(inference=TopDownInference(), conditioner=conditioner), 200)
    y = torch.arange(4).repeat_interleave(50)
    x = module.sample(200, y).float()[:, 0]
    guess = torch.stack([x[:, i].sum(1) + x[:, :, i].sum(1) for i in range(4)], 1).argmax(1)
    assert (guess == y).float().mean() > 0.8
    with pytest.raises(UserError, match="give y"):
        module.encode(bars(2)[0])


def test_the_output_starts_at_the_frequencies_of_the_data():
    module, (x, _) = made(), bars(2000)
    frequencies = x.double().mean(0)
    before = module.model.generate(500, None, GeneratorSource(0), 1.0).sigmoid().mean(0)
    module.initialize(x)
    after = module.model.generate(500, None, GeneratorSource(0), 1.0).sigmoid().mean(0)
    assert (after - frequencies).abs().max() < 0.12 < (before - frequencies).abs().max()


def test_compile_finds_networks_and_all_of_them():
    module = made(inference=TopDownInference(), latent_shapes=[4, 3, 2], widths=[16, 8, 4])
    networks = list(module.networks())
    assert {type(network) for network in networks} == {MLPBlock} and len(networks) == 3 + 3 + 3
    assert sum(p.numel() for n in networks for p in n.parameters()) == sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"latent_shapes": [4], "widths": [8]}, "one layer is a VAE"),
        ({"widths": [8]}, "widths has one for each of the 2 layers"),
        ({"widths": [8, 0]}, "at least 1"),
        ({"latent_shapes": [[2, 0, 2], 4]}, "at least 1"),
        ({"objective": IWAE(5, dreg=True)}, "dreg: false"),
        ({"objective": ELBO(free_bits=1.0, per_dimension=True)}, "TopDownInference"),
        ({"bound": Refined()}, "this model has 2"),
        ({"observation": FixedGaussian()}, "density"),
    ],
)
def test_what_has_no_meaning_is_refused(settings, word):
    with pytest.raises(UserError, match=word):
        made(**settings)


def test_free_bits_of_dimensions_are_for_the_top_down_posterior():
    """Whose divergences split; a bottom-up one has them not even in closed form."""
    objective = ELBO(free_bits=0.5, per_dimension=True)
    parts = made(inference=TopDownInference(), objective=objective).training_loss(bars(20)[0])
    assert (parts["loss"] - parts["distortion"]).mean() >= 0.5 * 6 - 1e-4


def test_from_a_config_it_trains_logs_every_layer_and_loads_again(tmp_path):
    from lightning_gen.__main__ import main

    config = tmp_path / "config.yaml"
    config.write_text(
        f"""
data: {{class_path: {__name__}.Bars, init_args: {{batch_size: 50}}}}
model:
  class_path: HierarchicalVAE
  init_args:
    latent_shapes: [4, 2]
    widths: [16, 8]
    block: {{class_path: lightning_gen.networks.MLPBlock, init_args: {{depth: 1}}}}
    inference: {{class_path: TopDownInference, init_args: {{merge: PrecisionWeighted}}}}
    observation: Bernoulli
trainer: {{accelerator: cpu, devices: 1, max_steps: 4, val_check_interval: 4, log_every_n_steps: 2}}
"""
    )
    main(["fit", "--config", str(config), "--run", str(tmp_path / "run")])
    with open(tmp_path / "run" / "metrics.csv") as file:
        rows = list(csv.DictReader(file))
    logged = {name for row in rows for name, value in row.items() if value}
    assert {"train/rate_1", "train/rate_2", "train/distortion", "val/kl_1", "val/kl_2", "val/bits_per_dim"} <= logged
    module = lightning_gen.load(tmp_path / "run", weights="raw")
    assert isinstance(module, HierarchicalVAE) and module.latent_shapes == [(4,), (2,)]
    assert module.sample(3).shape == (3, *SHAPE)


def test_a_spec_names_all_its_parts():
    spec = {
        "class_path": "HierarchicalVAE",
        "init_args": {
            "latent_shapes": [[2, 2, 2], 3],
            "widths": [8, 8],
            "block": {"class_path": "lightning_gen.networks.ConvBlock", "init_args": {"depth": 1}},
            "inference": {
                "class_path": "TopDownInference",
                "init_args": {
                    "merge": "PrecisionWeighted",
                    "reader": {"class_path": "lightning_gen.networks.MLPBlock", "init_args": {"depth": 0}},
                },
            },
            "observation": "Bernoulli",
        },
    }
    module = build(spec, lightning_gen.GenerativeModule, shape=SHAPE, levels=2, num_classes=None)
    module.configure_model()
    assert module.latent_shapes == [(2, 2, 2), (3,)] and module.sample(2).shape == (2, *SHAPE)
