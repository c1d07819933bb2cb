from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from PIL import Image

from lightning_gen import wandb_segments
from lightning_gen.callbacks import EMA, Checkpoints, SampleSheet
from lightning_gen.evaluation import latent_view
from lightning_gen.powers import LatentVariables
from lightning_gen.run_directory import find_checkpoint
from lightning_gen.wandb_run import WandbRun, settings


def sheets(run, name: str = "samples") -> list[int]:
    return sorted(int(file.stem[5:]) for file in (run / name).glob("step_????????.png"))


@pytest.fixture
def drawn(monkeypatch):
    """drawn(module): what the module samples from now on, in a list."""

    def function(module):
        seen, sample = [], module.sample

        def spy(*args, **kwargs):
            assert not module.training
            seen.append(sample(*args, **kwargs))
            return seen[-1]

        monkeypatch.setattr(module, "sample", spy)
        return seen

    return function


@pytest.mark.parametrize("every, steps, expected", [(2, 5, [2, 4, 5]), (2, 4, [2, 4]), (9, 1, [1]), (0, 3, [])])
def test_a_sheet_every_n_steps_and_at_the_end(trainer, model, data, tmp_path, every, steps, expected):
    trainer(steps, SampleSheet(every, num=3)).fit(model(), data(micro_batch_size=4))
    assert sheets(tmp_path) == expected
    for file in (tmp_path / "samples").glob("*"):
        Image.open(file).verify()


def test_a_resumed_run_draws_no_sheet_again(trainer, model, data, tmp_path):
    trainer(4, SampleSheet(2, 3), Checkpoints(2)).fit(model(), data(micro_batch_size=4))
    for file in (tmp_path / "samples").iterdir():
        file.unlink()
    path = str(find_checkpoint(tmp_path))
    trainer(6, SampleSheet(2, 3), Checkpoints(2)).fit(model(), data(micro_batch_size=4), ckpt_path=path)
    assert sheets(tmp_path) == [6]


def test_the_noise_is_the_same_each_time_and_a_larger_sheet_begins_with_the_smaller(trainer, model, data, drawn):
    still = model(optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    seen = drawn(still)
    trainer(3, SampleSheet(1, num=70)).fit(still, data())
    assert len(seen) == 3 and torch.equal(seen[0], seen[1]) and torch.equal(seen[0], seen[2])
    again = model(optimizer=lambda params: torch.optim.SGD(params, lr=0.0))
    again.seed, smaller = 99, drawn(again)  # another run, of another seed
    trainer(1, SampleSheet(1, num=5)).fit(again, data())
    torch.testing.assert_close(smaller[0], seen[0][:5])


def test_samples_are_of_the_average(trainer, model, data, drawn):
    raw, averaged = model(), model()
    of_raw, of_average = drawn(raw), drawn(averaged)
    trainer(4, SampleSheet(4, 8)).fit(raw, data())
    trainer(4, EMA([0.9]), SampleSheet(4, 8)).fit(averaged, data())
    assert not torch.equal(of_raw[0], of_average[0])
    raw.eval(), averaged.eval()
    assert torch.equal(raw.sample(8), of_raw[0])
    with averaged.ema_scope():
        assert torch.equal(averaged.sample(8), of_average[0])
    assert torch.equal(averaged.sample(8), of_raw[0])  # and training itself went the same way


class Wandb(WandbLogger):
    def __init__(self) -> None:
        self.images, self.texts = [], []

    def log_text(self, key, columns=None, data=None, dataframe=None, step=None) -> None:
        self.texts.append((key, columns, data, step))

    def log_image(self, key, images, step=None, **kwargs) -> None:
        self.images.append((key, images, step))


def stage(tmp_path, **kwargs) -> SimpleNamespace:
    """What the callback asks of a trainer after step 2."""
    usual = {"global_step": 2, "is_global_zero": True, "default_root_dir": str(tmp_path), "loggers": []}
    return SimpleNamespace(**{"callbacks": [], **usual, **kwargs})


def test_random_state_and_modes_are_left_alone(model, tmp_path, monkeypatch):
    module = model()
    module.configure_model()
    module.train()
    module.network[0].eval()  # a frozen part stays frozen
    modes, state = [part.training for part in module.modules()], torch.get_rng_state()
    SampleSheet(1, 4).on_train_batch_end(stage(tmp_path), module)
    assert sheets(tmp_path) == [2]
    assert [part.training for part in module.modules()] == modes and torch.equal(torch.get_rng_state(), state)

    def fail(*args, **kwargs):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "sample", fail)
    with pytest.raises(ZeroDivisionError):
        SampleSheet(1, 4).on_train_batch_end(stage(tmp_path), module)
    assert [part.training for part in module.modules()] == modes


def test_wandb_gets_the_sheet(model, tmp_path):
    module, wandb = model(), Wandb()
    module.configure_model()
    SampleSheet(1, 4).on_train_batch_end(stage(tmp_path, loggers=[wandb]), module)
    assert wandb.images == [("samples", [str(tmp_path / "samples" / "step_00000002.png")], 2)]


def test_only_rank_zero_draws(model, tmp_path):
    module = model()
    module.configure_model()
    SampleSheet(1, 4).on_train_batch_end(stage(tmp_path, is_global_zero=False), module)
    assert sheets(tmp_path) == []


def test_samples_without_a_picture_do_not_end_the_training(trainer, model, data, tmp_path, monkeypatch):
    module, wandb = model(), Wandb()
    monkeypatch.setattr(module, "sample", lambda num, rng: torch.zeros(num, 5))
    module.configure_model()
    with pytest.warns(UserWarning, match=r"no sheet of samples at step 2: samples of shape \(5,\) have no picture"):
        SampleSheet(1, 4).on_train_batch_end(stage(tmp_path, loggers=[wandb]), module)
    assert sheets(tmp_path) == [] and wandb.images == []


def test_text_is_written_as_text(model, tmp_path, monkeypatch):
    module, wandb = model(), Wandb()
    monkeypatch.setattr(module, "sample", lambda num, rng: torch.arange(2 * num).reshape(num, 2) % 3)
    module.symbols = "ab\n"
    module.configure_model()
    SampleSheet(1, 3).on_train_batch_end(stage(tmp_path, loggers=[wandb]), module)
    (sheet,) = (tmp_path / "samples").iterdir()
    assert sheet.name == "step_00000002.txt" and sheet.read_text(encoding="utf-8") == "ab\n↵a\nb↵\n"
    assert wandb.texts == [("samples", ["sample"], [["ab"], ["↵a"], ["b↵"]], 2)] and wandb.images == []


class Halves(LatentVariables):
    """Latents are half of the data; the network decodes them."""

    latents = 2

    def encode(self, x, y=None, *, rng=None):
        assert rng is None and not self.training
        return x / 2

    def decode(self, z, y=None):
        return self.network(z)


@pytest.fixture
def coded(model):
    """coded(): the tiny model with the power LatentVariables."""
    return lambda **kwargs: type("Coded", (type(model()), Halves), {})((2,), None, None, **kwargs)


@pytest.fixture
def shown(monkeypatch):
    """What sheets of reconstructions show from now on, in a list."""
    seen, save = [], latent_view.save_sheet
    monkeypatch.setattr(latent_view, "save_sheet", lambda x, *args: (seen.append(x), save(x, *args)))
    return seen


def test_models_with_latents_reconstruct_the_first_validation_examples(trainer, coded, data, tmp_path, shown):
    module = coded()
    trainer(4, EMA([0.9]), SampleSheet(2, num=8)).fit(module, data())
    assert sheets(tmp_path, "reconstructions") == sheets(tmp_path) == [2, 4]
    for file in (tmp_path / "reconstructions").glob("*"):
        Image.open(file).verify()
    x = data().split("val").x[:4]
    assert len(shown) == 2 and all(torch.equal(pairs[:, 0], x) for pairs in shown)
    with torch.no_grad(), module.eval().ema_scope():
        torch.testing.assert_close(shown[1][:, 1], module.network(x / 2))
    assert not torch.equal(shown[0][:, 1], shown[1][:, 1])


@pytest.mark.parametrize(("num", "expected"), [(1, 1), (7, 3), (400, 10)])
def test_at_least_one_and_no_more_examples_than_there_are_are_reconstructed(trainer, coded, data, shown, num, expected):
    trainer(1, SampleSheet(1, num)).fit(coded(), data())
    assert len(shown[0]) == expected


def test_others_have_no_reconstructions(trainer, model, data, tmp_path):
    trainer(2, SampleSheet(2, 4)).fit(model(), data())
    assert sheets(tmp_path) == [2] and not (tmp_path / "reconstructions").exists()


def test_reconstructions_leave_random_state_and_modes_alone(coded, data, tmp_path):
    module = coded()
    module.configure_model()
    module.train()
    module.network[0].eval()
    modes, state = [part.training for part in module.modules()], torch.get_rng_state()
    SampleSheet(1, 4).on_train_batch_end(stage(tmp_path, datamodule=data()), module)
    assert sheets(tmp_path, "reconstructions") == [2]
    assert [part.training for part in module.modules()] == modes and torch.equal(torch.get_rng_state(), state)


def test_wandb_gets_reconstructions_too(coded, data, tmp_path):
    module, wandb = coded(), Wandb()
    module.configure_model()
    SampleSheet(1, 4).on_train_batch_end(stage(tmp_path, loggers=[wandb], datamodule=data()), module)
    files = {name: [str(tmp_path / name / "step_00000002.png")] for name in ("samples", "reconstructions")}
    assert wandb.images == [(name, file, 2) for name, file in files.items()]


def test_one_kind_of_sheet_that_cannot_be_drawn_leaves_the_other(coded, data, tmp_path, monkeypatch):
    module, wandb = coded(), Wandb()
    module.configure_model()
    monkeypatch.setattr(module, "sample", lambda num, rng: torch.zeros(num, 5))
    with pytest.warns(UserWarning, match="no sheet of samples at step 2"):
        SampleSheet(1, 4).on_train_batch_end(stage(tmp_path, loggers=[wandb], datamodule=data()), module)
    assert [name for name, *_ in wandb.images] == ["reconstructions"]


def test_wandb_is_told_the_sheets_of_either_kind_that_it_lacks(tmp_path, monkeypatch):
    for name in ("samples", "reconstructions"):
        (tmp_path / name).mkdir()
        for step in (2, 4, 6):
            (tmp_path / name / f"step_{step:08d}.png").touch()
    (tmp_path / "samples" / "step_last.png").touch()
    logger = WandbRun(**settings(tmp_path, "abc", {"offline": True}, "fit", []))
    told = []
    monkeypatch.setattr(logger, "log_image", lambda name, files, step: told.append((name, files, step)))
    monkeypatch.setattr(wandb_segments, "cells", lambda *_: {(2, "samples"), (4, "reconstructions")})
    logger.catch_up(tmp_path, 5)
    expected = [("samples", 4), ("reconstructions", 2)]
    assert told == [(name, [str(tmp_path / name / f"step_{step:08d}.png")], step) for name, step in expected]
