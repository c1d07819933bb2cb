"""Seeds of one model are told from other models, by all that weights depend on and nothing else."""

import pytest
import torch

from lightning_gen.__main__ import main
from lightning_gen.evaluation.subject import digest_of_weights, subject
from lightning_gen.loading import read_checkpoint

pytestmark = pytest.mark.usefixtures("standing")
BASE = ["--model", "coins_of_ranks.Coins", "--data", "coins_of_ranks.Few", "--data.init_args.batch_size=4"]
BASE += ["--trainer.accelerator=cpu", "--samples.every_n_steps=0"]


@pytest.fixture(scope="module")
def of(place, tmp_path_factory):
    """of(*args): the subject of a training of one step with these arguments, each trained once."""
    folder, made = tmp_path_factory.mktemp("subjects"), {}

    def function(*args):
        if args not in made:
            run = folder / f"run-{len(made)}"
            steps = [] if any("max_steps" in arg for arg in args) else ["--trainer.max_steps=1"]
            assert main(["fit", *BASE, *steps, *args, "--run", str(run)]) == 0
            made[args] = subject(read_checkpoint(run), run)
        return made[args]

    return function


@pytest.mark.parametrize(
    "args",
    [
        ["--seed_everything=3"],
        ["--data.init_args.eval_batch_size=7"],
        ["--data.init_args.micro_batch_size=2"],
        ["--model.init_args.eval_draws=5"],
        ["--checkpoints.keep=7", "--progress.every_s=3"],
    ],
)
def test_what_weights_do_not_depend_on_makes_no_other_model(of, args):
    assert of(*args)["recipe_digest"] == of()["recipe_digest"]
    assert of(*args)["training_seed"] == (3 if "seed" in args[0] else 0)


@pytest.mark.parametrize(
    "args",
    [
        ["--trainer.gradient_clip_val=0.01"],
        ["--trainer.precision=bf16-mixed"],
        ["--data.init_args.batch_size=8"],
        ["--ema.decays=[0.5]"],
        ["--model.init_args.optimizer.lr=0.5"],
        ["--trainer.max_steps=2"],
    ],
)
def test_what_they_depend_on_does(of, args):
    assert of(*args)["recipe_digest"] != of()["recipe_digest"]


def test_weights_from_elsewhere_make_another_model(of, place):
    run = place / "elsewhere"
    assert main(["fit", *BASE, "--trainer.max_steps=1", "--run", str(run)]) == 0
    assert of("--init_from", str(run))["recipe_digest"] != of()["recipe_digest"]


def test_every_bit_of_the_weights_counts():
    layer = torch.nn.Linear(3, 2)
    before = digest_of_weights(layer)
    with torch.no_grad():
        layer.weight[1, 2] = torch.nextafter(layer.weight[1, 2], torch.tensor(10.0))
    assert digest_of_weights(layer) != before
    assert digest_of_weights(layer.half()) != digest_of_weights(layer.float())
