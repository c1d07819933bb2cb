"""W&B is told every metric of every step once, however often its run is killed, and whatever its client had not written."""

import os
import runpy
import signal
from collections import Counter
from pathlib import Path

import pytest
import torch
import wandb

from lightning_gen.__main__ import main
from lightning_gen.loggers import MetricsCSV
from lightning_gen.metrics_file import read_metrics
from lightning_gen.pictures import save_samples
from lightning_gen.processes import context
from lightning_gen.wandb_run import SHEETS, WandbRun, settings
from lightning_gen.wandb_segments import segments

AXES = {"step", "epoch", "images_seen", "trainer/global_step"}


def told(run: Path) -> Counter:
    """How often each (step, metric) stands in what is kept for W&B, once its client is through."""
    wandb.teardown()
    rows = [row for segment in segments(run) for row in segment.rows()]
    return Counter((row["step"], name) for row in rows for name in row if name not in AXES and not name.startswith("_"))


def train(run: Path, begin: int, end: int) -> WandbRun:
    """Logs steps begin+1 to end as a run does that goes on from step `begin`: the CSV first."""
    loggers = [MetricsCSV(run, begin), WandbRun(**settings(run, "abc", {"offline": True}, "fit", []))]
    loggers[1].catch_up(run, begin)
    for step in range(begin + 1, end + 1):
        for logger in loggers:
            logger.log_metrics({"train/loss": 1 / step, "images_seen": 8.0 * step}, step)
        if step % 4 == 0:
            sheet = run / "samples" / f"step_{step:08d}.png"
            save_samples(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), 2, sheet)
            loggers[1].log_image(SHEETS, [str(sheet)], step)
            for logger in loggers:
                logger.log_metrics({"val/loss": 2 / step, "images_seen": 8.0 * step}, step)
    return loggers[1]


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """W&B's client begins anew: it looks at its environment once."""
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()
    yield
    wandb.teardown()


EXPECTED = Counter((step, "train/loss") for step in range(1, 13))
EXPECTED |= Counter((step, name) for step in (4, 8, 12) for name in ("val/loss", SHEETS))


@pytest.mark.parametrize(("written", "checkpoint"), [(0.0, 6), (0.4, 3), (0.4, 9), (1.0, 0), (1.0, 6)])
def test_a_run_tells_what_its_killed_start_did_not(tmp_path, written, checkpoint):
    """Of the first start the client wrote a part; it is gone on from a checkpoint before or after that."""
    train(tmp_path, 0, 10).finish()
    wandb.teardown()  # the service may write on for a while
    (segment,) = segments(tmp_path)
    content = segment.log.read_bytes()
    segment.log.write_bytes(content[: 7 + int(written * (len(content) - 7))])
    assert (len(told(tmp_path)) < 10) == (written < 0.5)
    later = segment.folder.with_name("offline-run-20200101_000000-abc")  # the two starts of this test are one second
    segment.folder.rename(later)
    train(tmp_path, checkpoint, 12).finish()
    assert told(tmp_path) == EXPECTED


TOY = str(Path(__file__).resolve().parents[1] / "configs" / "experiment" / "toy_diffusion.yaml")
FIT = [
    *("fit", "--config", TOY, "--trainer.max_steps=9", "--trainer.logger=WandbLogger"),
    *("--data.init_args.num_train=100", "--data.init_args.num_val=40", "--data.init_args.batch_size=20"),
    "--model.init_args.network.init_args={width: 8, depth: 1}",
    *("--trainer.val_check_interval=4", "--trainer.log_every_n_steps=1", "--checkpoints.every_n_steps=2"),
    "--samples={every_n_steps: 3, num: 4}",
]


def fit_and_die(args: list[str]) -> None:
    """Runs `fit` and kills its own process where a row of step 7 stands in the CSV, and W&B is to be told of it."""
    torch.set_num_threads(1)
    real = WandbRun.log_metrics

    def deadly(self, metrics, step=None):
        if step == 7:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, metrics, step)

    WandbRun.log_metrics = deadly
    main(args)


def test_a_killed_run_is_one_run_with_every_row_once(tmp_path):
    job = {
        "path_name": __file__,
        "init_globals": {"death": [*FIT, "--run", str(tmp_path / "run")]},
        "run_name": "dying",
    }
    process = context("lightning_gen.benchmark.preload").Process(target=runpy.run_path, kwargs=job)
    process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    (killed,) = segments(tmp_path / "run")
    assert main([*FIT, "--run", str(tmp_path / "run")]) == 0
    once = told(tmp_path / "run")
    csv = {(step, name) for name, cells in read_metrics(tmp_path / "run" / "metrics.csv").items() for step, _ in cells}
    assert once == Counter(
        {(step, name) for step, name in csv if name not in AXES} | {(step, SHEETS) for step in (3, 6, 9)}
    )
    assert (7, "train/loss") in csv and killed.identity == (tmp_path / "run" / "run_id").read_text().strip()
    assert {segment.identity for segment in segments(tmp_path / "run")} == {killed.identity}


def test_a_service_that_ends_is_said_once_and_ends_nothing(tmp_path, monkeypatch, capsys):
    """As SIGTERM does, which a job's processes all get."""
    monkeypatch.setattr(wandb, "run", None)  # what W&B leaves of a run whose service has gone
    logger = WandbRun(**settings(tmp_path, "abc", {"offline": True}, "fit", []))
    logger.log_metrics({"train/loss": 1.0}, 1)
    wandb.setup().ensure_service()._proc._process.kill()
    wandb.setup().ensure_service()._proc.join()
    capsys.readouterr()
    for step in range(2, 2000):
        logger.log_metrics({"train/loss": 1.0}, step)
    logger.mark_preempting()
    logger.finish()
    assert logger._lost and capsys.readouterr().err.count("W&B is lost") == 1


if __name__ == "dying":
    fit_and_die(death)  # noqa: F821  from init_globals
