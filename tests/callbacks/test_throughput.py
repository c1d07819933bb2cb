from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers.logger import DummyLogger

from lightning_gen.callbacks import Checkpoints, Throughput
from lightning_gen.callbacks import throughput as module_under_test
from lightning_gen.run_directory import find_checkpoint


class Record(DummyLogger):
    """Keeps what the callback logs; the module's own metrics are not its."""

    def __init__(self) -> None:
        super().__init__()
        self.logged = {}

    def log_metrics(self, metrics, step=None) -> None:
        mine = {k: v for k, v in metrics.items() if k in ("images_seen", "throughput/images_per_s", "optim/lr")}
        if mine and not any(k.startswith("val/") for k in metrics):
            assert step not in self.logged
            self.logged[step] = mine


class Clock(Callback):
    """A training batch takes `batch` seconds, validation a hundred."""

    def __init__(self, monkeypatch, batch: float) -> None:
        self.now, self.batch = 0.0, batch
        monkeypatch.setattr(module_under_test, "time", SimpleNamespace(perf_counter=lambda: self.now))

    def on_after_backward(self, *args) -> None:
        self.now += self.batch

    def on_validation_batch_start(self, *args) -> None:
        self.now += 100.0


@pytest.mark.parametrize("micro, accumulation", [(None, 1), (2, 4)])
def test_it_logs_on_logged_steps_alone_and_counts_no_pauses(trainer, model, data, monkeypatch, micro, accumulation):
    record, clock = Record(), Clock(monkeypatch, batch=0.5 / accumulation)
    schedule = lambda optimizer: torch.optim.lr_scheduler.StepLR(optimizer, 3, 0.1)  # noqa: E731
    module = model(lr_schedule=schedule)
    used = trainer(7, Throughput(), clock, val_every=2, log_every_n_steps=3, logger=record)
    used.fit(module, data(micro_batch_size=micro))
    assert list(record.logged) == [3, 6]
    assert [row["images_seen"] for row in record.logged.values()] == [24.0, 48.0]
    # 8 images in half a second
    assert [row["throughput/images_per_s"] for row in record.logged.values()] == pytest.approx([16.0, 16.0])
    # the rates of the steps 3 and 6 themselves: the schedule falls after each third
    assert [row["optim/lr"] for row in record.logged.values()] == pytest.approx([1e-3, 1e-4])


def test_images_seen_go_on_after_a_resume(trainer, model, data, tmp_path):
    trainer(3, Throughput(), Checkpoints(1)).fit(model(), data())
    record = Record()
    trainer(5, Throughput(), Checkpoints(1), logger=record).fit(
        model(), data(micro_batch_size=4), ckpt_path=str(find_checkpoint(tmp_path))
    )
    assert {step: row["images_seen"] for step, row in record.logged.items()} == {4: 32.0, 5: 40.0}


def test_without_loggers_nothing_happens(trainer, model, data):
    trainer(2, Throughput()).fit(model(), data())
