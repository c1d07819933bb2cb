"""A run of the Trainer: which examples each step is made of, resumed or not, accumulated or not."""

import itertools

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from datamodules.base import DataModule, Examples
from datamodules.loaders import DataOrder, TrainingStream
from lightning_gen.errors import UserError


class Counted(DataModule):
    """37 examples whose value is their index: a number that divides nothing."""

    shape = (1,)
    levels = 64

    def load(self) -> dict[str, Examples]:
        x = torch.arange(37, dtype=torch.uint8).unsqueeze(1)
        return {"train": Examples(x), "val": Examples(x[:11], torch.arange(11)), "test": Examples(x[:7])}


class Recorder(LightningModule):
    """Notes which examples every optimizer step was made of."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: dict[int, list[int]] = {}
        self.validated: list[int] = []

    def training_step(self, batch, batch_idx):
        rows, total = self.trainer.datamodule.global_rows(batch_idx)
        assert total == 8 and len(rows) == len(batch.index)
        assert batch.x.flatten().tolist() == batch.index.tolist()
        self.seen.setdefault(self.global_step, []).extend(batch.index.tolist())
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        self.validated += batch.index.tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class SaveAt(Callback):
    """Writes a checkpoint at the end of one micro-batch, and stops there."""

    def __init__(self, path, micro_batches: int) -> None:
        self.path, self.left = path, micro_batches

    def on_train_batch_end(self, trainer, *args):
        self.left -= 1
        if self.left == 0:
            trainer.save_checkpoint(self.path)
            trainer.should_stop = True


def fit(data: DataModule, max_steps: int, path=None, callbacks=(), module=None, **kwargs) -> Recorder:
    module = Recorder() if module is None else module
    options = dict(max_epochs=-1, max_steps=max_steps, accelerator="cpu", logger=False, enable_checkpointing=False)
    options |= dict(enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)
    Trainer(**(options | kwargs), callbacks=list(callbacks)).fit(module, datamodule=data, ckpt_path=path)
    return module


def batches(num: int, size: int, seed: int, count: int) -> list[list[int]]:
    order = DataOrder(num, seed)
    return [order.positions(k * size, (k + 1) * size).tolist() for k in range(count)]


@pytest.mark.parametrize("micro, accumulation", [(None, 1), (4, 2)])
def test_a_resumed_run_goes_on_exactly_where_it_was(tmp_path, micro, accumulation):
    expected = batches(37, 8, seed=11, count=12)

    def data() -> Counted:
        module = Counted(batch_size=8, micro_batch_size=micro)
        module.seed = 11
        return module

    path = tmp_path / "seven.ckpt"
    first = fit(data(), 12, callbacks=[SaveAt(path, 7 * accumulation)])
    assert first.seen == dict(enumerate(expected[:7]))
    second = fit(data(), 12, path)
    assert second.seen == {k: expected[k] for k in range(7, 12)}


@pytest.mark.parametrize(
    "micro_before, saved_after, micro_after", [(4, 15, 4), (2, 30, 2), (None, 7, 4), (2, 28, None)]
)
def test_a_partial_step_is_made_again_and_accumulation_may_change(tmp_path, micro_before, saved_after, micro_after):
    # written between micro-batches, or at another world size: the count of micro-batches is not the trainer's multiple
    path = tmp_path / "partial.ckpt"
    fit(Counted(batch_size=8, micro_batch_size=micro_before), 12, callbacks=[SaveAt(path, saved_after)])
    second = fit(Counted(batch_size=8, micro_batch_size=micro_after), 12, path)
    assert second.seen == {k: batch for k, batch in enumerate(batches(37, 8, 0, 12)) if k >= 7}


def test_the_interval_of_validation_is_of_steps_for_every_trainer_of_a_data_module():
    data = Counted(batch_size=8, micro_batch_size=4)
    for interval in (3, 5):
        assert fit(data, 1, val_check_interval=interval).trainer.val_check_interval == 2 * interval


def test_a_second_fit_of_the_same_trainer_goes_on():
    data, module = Counted(batch_size=8, micro_batch_size=4), Recorder()
    trainer = Trainer(max_epochs=-1, max_steps=3, accelerator="cpu", logger=False, enable_checkpointing=False,
                      enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0)  # fmt: skip
    trainer.fit(module, datamodule=data)
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(module, datamodule=data)
    assert module.seen == dict(enumerate(batches(37, 8, 0, 6)))


def test_validation_by_steps_sees_every_example_once():
    data = Counted(batch_size=8, eval_batch_size=4)
    module = fit(data, 6, val_check_interval=3, check_val_every_n_epoch=None, limit_val_batches=1.0,
                 num_sanity_val_steps=0)  # fmt: skip
    assert module.validated == [*range(11)] * 2


def test_accumulation_that_contradicts_the_batch_size_is_refused():
    given = fit(Counted(batch_size=8, micro_batch_size=4), 1, accumulate_grad_batches=2, val_check_interval=3)
    assert given.trainer.val_check_interval == 6  # in micro-batches: the interval is of steps, said or derived
    with pytest.raises(UserError, match="accumulate_grad_batches is 3.*makes it 2"):
        fit(Counted(batch_size=8, micro_batch_size=4), 1, accumulate_grad_batches=3)


@pytest.mark.parametrize("world_size, micro", [(1, None), (1, 4), (2, 2), (4, 1)])
def test_global_rows_say_which_rows_of_the_batch_a_rank_has(world_size, micro):
    rows: dict[int, list[int]] = {}
    for rank in range(world_size):
        data = Counted(batch_size=8, micro_batch_size=micro)
        data.trainer = type("Place", (), {"global_rank": rank, "world_size": world_size, "global_step": 0})
        stream = TrainingStream(data.split("train"), data.layout, seed=1)
        for micro_step, batch in enumerate(itertools.islice(stream, 3 * data.layout.accumulation)):
            mine, total = data.global_rows(micro_step)
            step = micro_step // data.layout.accumulation
            assert torch.equal(DataOrder(37, 1).positions(step * total, (step + 1) * total)[mine], batch.index)
            rows.setdefault(step, []).extend(mine.tolist())
    assert all(sorted(of_step) == list(range(8)) for of_step in rows.values())


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "batch_size must be at least 1, not 0"),
        ({"batch_size": 8, "micro_batch_size": 0}, "micro_batch_size must be at least 1, not 0"),
        ({"batch_size": 8, "micro_batch_size": 3}, "8 examples.*micro_batch_size 3 does not divide"),
        ({"eval_batch_size": 0}, "eval_batch_size must be at least 1, not 0"),
    ],
)
def test_sizes_that_cannot_be_are_refused_at_construction(arguments, message):
    with pytest.raises(UserError, match=message):
        Counted(**arguments)


def test_an_unknown_split_is_refused_with_those_there_are():
    with pytest.raises(UserError, match="Counted has no split 'dev': it has train, val, test"):
        Counted().split("dev")


@pytest.mark.parametrize("x", [torch.full((4, 1), 64, dtype=torch.uint8), torch.zeros(4, 1), torch.zeros(4, 2).byte()])
def test_a_data_set_that_breaks_its_own_contract_is_refused(x):
    data = Counted()
    data.load = lambda: {"train": Examples(x)}
    with pytest.raises(ValueError, match="train: x"):
        data.split("train")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (torch.zeros(6, 2), 1 + torch.arange(6) % 3, "train: labels of 3 classes are 0 to 2, not 1 to 3"),
        (torch.zeros(6, 2), torch.arange(6) % 3 - 1, "not -1 to 1"),
        (torch.zeros(6, 2), torch.zeros(6), "int64, not float32"),
        (torch.full((6, 2), float("nan")), torch.arange(6) % 3, "train: the data are finite"),
        (torch.zeros(6, 2), torch.randn(6, 5), None),
        (torch.zeros(6, 2), torch.arange(6) % 3, None),
    ],
)
def test_labels_are_of_the_classes_and_vectors_finite(x, y, message):
    class Labelled(DataModule):
        shape, num_classes = (2,), 3

        def load(self):
            return {"train": Examples(x, y)}

    if message is None:
        Labelled().split("train")
    else:
        with pytest.raises(UserError, match=message):
            Labelled().split("train")


def test_splits_are_loaded_once():
    data = Counted()
    assert data.split("train") is data.split("train")
    assert data.split("train").x is data.train_dataloader().examples.x


# Augmentation


class Augmented(Counted):
    """Adds to each example a draw of its own."""

    levels = None

    def load(self) -> dict[str, Examples]:
        return {name: Examples(part.x.float(), part.y) for name, part in super().load().items()}

    def augment(self, x, rng):
        return x + rng.uniform(x.shape)


class Watcher(Recorder):
    """Notes what training and validation see, and disturbs the global random state as any model does."""

    def __init__(self) -> None:
        super().__init__()
        self.inputs: dict[int, list[float]] = {}

    def training_step(self, batch, batch_idx):
        assert type(batch.micro_step) is int
        torch.rand(3)
        self.inputs.setdefault(self.global_step, []).extend(batch.x.flatten().tolist())
        return self.weight**2

    def validation_step(self, batch, batch_idx):
        assert torch.equal(batch.x, torch.as_tensor(batch.index).float().unsqueeze(1))
        super().validation_step(batch, batch_idx)


def augmented(micro=None, seed=11) -> Augmented:
    data = Augmented(batch_size=8, micro_batch_size=micro)
    data.seed = seed
    return data


@pytest.mark.parametrize("micro, accumulation", [(None, 1), (4, 2)])
def test_a_resumed_run_sees_the_augmented_batches_it_would_have_seen(tmp_path, micro, accumulation):
    def watch(max_steps, path=None, callbacks=()):
        return fit(augmented(micro), max_steps, path, callbacks, module=Watcher()).inputs

    path = tmp_path / "five.ckpt"
    whole = watch(12)
    torch.manual_seed(99)
    assert watch(12, callbacks=[SaveAt(path, 5 * accumulation)]) == {k: whole[k] for k in range(5)}
    assert watch(12, path) == {k: whole[k] for k in range(5, 12)}
    added = [value % 1 for step in whole.values() for value in step]
    assert len(set(added)) == len(added)  # fresh for every example of every micro-batch


def test_validation_and_test_are_not_augmented():
    module = fit(augmented(), 4, module=Watcher(), val_check_interval=2, check_val_every_n_epoch=None,
                 limit_val_batches=1.0, num_sanity_val_steps=1)  # fmt: skip
    assert len(module.validated) == 11 + 2 * 11
    data = augmented()
    assert torch.equal(next(iter(data.test_dataloader())).x.flatten(), torch.arange(7.0))


def test_augmentation_is_of_the_seed_the_step_and_the_rank():
    batch = next(iter(TrainingStream(augmented().split("train"), augmented().layout)))
    x = [
        augmented(seed=seed)._augmented(batch._replace(micro_step=step), rank).x
        for seed, step, rank in ((1, 0, 0), (1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1))
    ]
    assert torch.equal(x[0], x[1]) and all(not torch.equal(x[0], other) for other in x[2:])
    with pytest.raises(ValueError, match="must say its micro_step"):
        augmented()._augmented(batch._replace(micro_step=None), 0)


@pytest.mark.parametrize("world_size, micro", [(1, None), (1, 2), (2, 2), (4, None)])
def test_the_first_batch_is_what_the_ranks_see_together(world_size, micro):
    together: dict[int, torch.Tensor] = {}
    for rank in range(world_size):
        data = augmented(micro)
        data.trainer = type("Place", (), {"global_rank": rank, "world_size": world_size, "global_step": 0})
        data.trainer.training = True
        stream = TrainingStream(data.split("train"), data.layout, data.seed)
        for micro_step, batch in enumerate(itertools.islice(stream, data.layout.accumulation)):
            rows, _ = data.global_rows(micro_step)
            seen = data.on_after_batch_transfer(batch, 0)
            together |= {row: x for row, x in zip(rows.tolist(), seen.x)}
        first = data.first_batch()
    assert torch.equal(first.x, torch.stack([together[row] for row in range(8)]))
    assert first.index.tolist() == batches(37, 8, 11, 1)[0]


def test_what_does_not_augment_passes_untouched():
    data = Counted(batch_size=8)
    data.trainer = type("Place", (), {"global_rank": 0, "world_size": 1, "global_step": 0, "training": True})
    batch = next(iter(TrainingStream(data.split("train"), data.layout)))
    assert data.on_after_batch_transfer(batch, 0) is batch
    assert data.training_examples() is data.split("train")
