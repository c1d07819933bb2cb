"""Every argument of Lightning's Trainer is honoured or refused, every hook of Lightning's is called."""

import inspect
from collections import Counter
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelSummary
from lightning.pytorch.core.hooks import CheckpointHooks, ModelHooks
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.profilers import SimpleProfiler

from datamodules.loaders import DataOrder, EvaluationLoader
from lightning_gen import run_lock
from lightning_gen.callbacks import EMA, Checkpoints, RunBegins
from lightning_gen.callbacks.checkpoints import DirectIO
from lightning_gen.run_entry import Entry

HERE = Path(__file__).parent


class Watch(Callback):
    """Notes what is true in each step, of training and of evaluation, and stops where it is told."""

    def __init__(self, look=lambda trainer: trainer.global_step, stop=None) -> None:
        self.look, self.stop = look, stop
        self.trained, self.evaluated, self.validated, self.checked = [], [], [], 0

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.trained.append(self.look(trainer))

    def on_train_batch_end(self, trainer, *args):
        trainer.should_stop = self.stop is not None and trainer.global_step >= self.stop

    def on_validation_batch_start(self, trainer, *args):
        self.evaluated.append(self.look(trainer))

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)

    def on_sanity_check_end(self, trainer, module):
        self.checked += 1


class Setup:
    """The fixtures, and fit(steps, ...) of a fresh tiny model."""

    def __init__(self, trainer, model, data, tmp_path) -> None:
        self.trainer, self.model, self.data, self.tmp_path = trainer, model, data, tmp_path

    def fit(self, steps: int, *callbacks, size: int | None = None, **kwargs) -> LightningModule:
        module = self.model()
        self.trainer(steps, *callbacks, **kwargs).fit(module, self.data(micro_batch_size=size, eval_batch_size=4))
        return module


def accelerator(s):
    assert s.fit(1, accelerator="cpu").device.type == "cpu"


def precision(s):
    for name, dtype in (("64-true", torch.float64), ("bf16-mixed", torch.float32)):
        found = []
        s.fit(
            1, Watch(lambda t, found=found: found.append(next(t.lightning_module.parameters()).dtype)), precision=name
        )
        assert found == [dtype]


def logger(s):
    class Rows(DummyLogger):
        def log_metrics(self, metrics, step=None):
            steps.append(step)

    steps = []
    s.fit(2, logger=Rows())
    assert steps == [1, 2]


def callbacks(s):
    watch = Watch()
    s.fit(2, watch)
    assert watch.trained == [0, 1]


def max_steps(s):
    assert s.fit(3).trainer.global_step == 3


def min_steps(s):
    assert s.fit(9, Watch(stop=2), min_steps=5).trainer.global_step == 5


def max_time(s):
    assert s.fit(-1, max_time={"milliseconds": 1}).trainer.global_step > 0  # and it ends


def limit_val_batches(s):
    for limit, num in ((1, 4), (0.7, 7), (1.0, 10)):  # batches of 4, 3 and 3
        assert s.fit(1, val_every=1, limit_val_batches=limit).num_measured == num


def limit_test_batches(s):
    module = s.model()
    s.trainer(1, limit_test_batches=1).test(module, s.data(eval_batch_size=4), verbose=False)
    assert module.num_measured == 4


def limit_predict_batches(s):
    rows = s.trainer(1, limit_predict_batches=1).predict(s.model(), s.data(eval_batch_size=4))
    assert [len(row["index"]) for row in rows] == [4]


def overfit_batches(s):
    """A number of global batches, or a share of an epoch's, at any accumulation."""

    class Seen(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen.setdefault(trainer.global_step, []).extend(batch.index.tolist())

    for overfit, distinct, size in ((2, 2, None), (2, 2, 4), (3, 3, 2), (0.5, 4, None)):
        seen = {}
        s.fit(9, Seen(), overfit_batches=overfit, size=size, val_every=100)
        first = [DataOrder(64, 0).positions(8 * k, 8 * k + 8).tolist() for k in range(distinct)]
        assert seen == {step: first[step % distinct] for step in range(9)}


def val_check_interval(s):
    for interval, steps in ((2, [2, 4]), ({"seconds": 0}, [1, 2, 3, 4]), ("00:10:00:00", [])):
        watch = Watch()
        s.fit(4, watch, val_every=1, val_check_interval=interval)
        assert watch.validated == steps


def num_sanity_val_steps(s):
    """It runs, and leaves no trace: neither in the weights nor in their averages."""
    states = []
    for steps in (0, 2, -1):
        watch, ema = Watch(), EMA([0.9])
        module = s.fit(3, watch, ema, val_every=3, num_sanity_val_steps=steps)
        assert watch.checked == (steps != 0) and len(watch.evaluated) == {0: 3, 2: 5, -1: 6}[steps]
        with module.ema_scope():
            averages = {f"average.{k}": v.clone() for k, v in module.state_dict().items()}
        states.append({**module.state_dict(), **averages})
    for state in states[1:]:
        assert all(torch.equal(state[name], value) for name, value in states[0].items())


def log_every_n_steps(s):
    class Rows(DummyLogger):
        def log_metrics(self, metrics, step=None):
            steps.append(step)

    steps = []
    s.fit(5, logger=Rows(), log_every_n_steps=2)
    assert steps == [2, 4]


def enable_checkpointing(s):
    s.fit(1, Checkpoints(), enable_checkpointing=True)
    assert [f.name for f in (s.tmp_path / "checkpoints").iterdir()] == ["step_00000001.ckpt"]


def enable_model_summary(s):
    module = s.fit(1, enable_model_summary=True)
    assert any(isinstance(callback, ModelSummary) for callback in module.trainer.callbacks)


def accumulate_grad_batches(s):
    assert s.fit(1, accumulate_grad_batches=2, size=4).trainer.accumulate_grad_batches == 2


def deterministic(s):
    watch = Watch(lambda trainer: torch.are_deterministic_algorithms_enabled())
    try:
        s.fit(1, watch, deterministic=True)
    finally:
        torch.use_deterministic_algorithms(False)
    assert watch.trained == [True]


def benchmark(s):
    watch, before = Watch(lambda trainer: torch.backends.cudnn.benchmark), torch.backends.cudnn.benchmark
    try:
        s.fit(1, watch, benchmark=not before)
    finally:
        torch.backends.cudnn.benchmark = before
    assert watch.trained == [not before]


def inference_mode(s):
    for wanted in (True, False):
        watch = Watch(lambda trainer: torch.is_inference_mode_enabled())
        s.trainer(1, watch, val_every=1, inference_mode=wanted).validate(s.model(), s.data(), verbose=False)
        assert watch.evaluated == [wanted]


def use_distributed_sampler(s):
    """The loaders cut what they give among the ranks themselves; Lightning has nothing to replace."""
    module = s.fit(1, val_every=1, use_distributed_sampler=True)
    assert isinstance(module.trainer.val_dataloaders, EvaluationLoader)


def profiler(s):
    kept = SimpleProfiler()
    s.fit(2, profiler=kept)
    assert len(kept.recorded_durations["run_training_batch"]) == 2


def detect_anomaly(s):
    watch = Watch(lambda trainer: torch.is_anomaly_enabled())
    s.fit(1, watch, detect_anomaly=True)
    assert watch.trained == [True]


def plugins(s):
    class Mine(DirectIO):
        pass

    module = s.fit(1, Checkpoints(), plugins=[mine := Mine()])
    assert module.trainer.strategy.checkpoint_io is mine


def sync_batchnorm(s):
    assert s.fit(1, sync_batchnorm=True).trainer.global_step == 1  # one device has nothing to synchronize


def enable_autolog_hparams(s):
    class Told(DummyLogger):
        def log_hyperparams(self, params, *args, **kwargs):
            told.append(params["a"])

    for wanted in (True, False):
        told, run = [], s.tmp_path / str(wanted)
        run.mkdir()
        try:
            s.fit(1, RunBegins(run, Entry("x"), {"a": 1}), logger=Told(), enable_autolog_hparams=wanted)
        finally:
            run_lock.release(run)
        assert told == [1] * wanted


ELSEWHERE = {
    "strategy": "test_ranks.py",
    "devices": "test_ranks.py",
    "num_nodes": "test_bad_input.py",
    "enable_progress_bar": "callbacks/test_progress.py",
    "gradient_clip_val": "test_generative_module.py",
    "gradient_clip_algorithm": "test_generative_module.py",
}
"""Arguments that are honoured, and the files whose tests hold it."""

HONOURED = [
    *(accelerator, precision, logger, callbacks, max_steps, min_steps, max_time),
    *(limit_val_batches, limit_test_batches, limit_predict_batches, overfit_batches, val_check_interval),
    *(num_sanity_val_steps, log_every_n_steps, enable_checkpointing, enable_model_summary, accumulate_grad_batches),
    *(deterministic, benchmark, inference_mode, use_distributed_sampler, profiler, detect_anomaly, plugins),
    *(sync_batchnorm, enable_autolog_hparams),
]

REFUSED = [
    *("fast_dev_run", "max_epochs", "min_epochs", "limit_train_batches", "check_val_every_n_epoch"),
    *("reload_dataloaders_every_n_epochs", "barebones", "default_root_dir", "model_registry"),
]
"""Arguments that are refused; test_bad_input.py has the line of each."""


def test_every_argument_is_honoured_or_refused():
    """A new argument of Lightning's fails here."""
    arguments = [*(check.__name__ for check in HONOURED), *ELSEWHERE, *REFUSED]
    assert sorted(arguments) == sorted(inspect.signature(Trainer.__init__).parameters.keys() - {"self"})
    for name, file in ELSEWHERE.items():
        assert name in (HERE / file).read_text(), name
    bad_input = (HERE / "test_bad_input.py").read_text()
    for name in REFUSED:
        assert f"--trainer.{name}=" in bad_input, name


@pytest.mark.parametrize("check", HONOURED, ids=lambda check: check.__name__)
def test_an_argument_is_honoured(check, trainer, model, data, tmp_path):
    check(Setup(trainer, model, data, tmp_path))


# ---- hooks --------------------------------------------------------------------------------------------------------


class Plain(LightningModule):
    """What Lightning alone makes of the tiny data."""

    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Linear(2, 2)

    def training_step(self, batch, batch_idx):
        return self.network(batch.x).square().mean()

    def validation_step(self, batch, batch_idx):
        self.network(batch.x)

    def test_step(self, batch, batch_idx):
        self.network(batch.x)

    def predict_step(self, batch, batch_idx):
        return self.network(batch.x)

    def configure_optimizers(self):
        optimizer = torch.optim.SGD(self.parameters(), lr=0.1)
        return [optimizer], [{"scheduler": torch.optim.lr_scheduler.ConstantLR(optimizer), "interval": "step"}]


CALLBACK_HOOKS = [name for name in vars(Callback) if not name.startswith("_") and name != "state_key"]
MODULE_HOOKS = [
    *(name for base in (ModelHooks, CheckpointHooks) for name in vars(base) if not name.startswith("_")),
    *("setup", "teardown", "prepare_data", "configure_optimizers", "configure_callbacks", "backward", "optimizer_step"),
    *("configure_gradient_clipping", "lr_scheduler_step", "optimizer_zero_grad", "transfer_batch_to_device"),
    *("on_before_batch_transfer", "on_after_batch_transfer", "training_step", "validation_step", "test_step"),
    "predict_step",
]
MODULE_HOOKS.remove("configure_sharded_model")  # Lightning refuses to have it overridden


def counting(base: type, hooks: list[str], counts: Counter) -> type:
    """A subclass of `base` that counts the calls of its hooks, and calls through."""

    def counted(name: str):
        def hook(self, *args, **kwargs):
            counts[name] += 1
            return getattr(super(kind, self), name)(*args, **kwargs)

        # Lightning reads from the signature which arguments a step takes
        hook.__signature__ = inspect.signature(getattr(base, name))
        return hook

    kind = type(f"Counting{base.__name__}", (base,), {name: counted(name) for name in hooks})
    return kind


def all_verbs(module, callback, trainer, data, tmp_path) -> None:
    """A fit with validation and accumulation that is resumed, a fit that fails, and the other verbs."""
    used = trainer(4, callback, val_every=2, num_sanity_val_steps=1, enable_checkpointing=False)
    used.fit(module, data(micro_batch_size=4, eval_batch_size=4))
    used.save_checkpoint(tmp_path / "c.ckpt")
    trainer(6, callback, val_every=2).fit(module, data(micro_batch_size=4), ckpt_path=str(tmp_path / "c.ckpt"))
    for verb, more in (("validate", {"verbose": False}), ("test", {"verbose": False}), ("predict", {})):
        getattr(trainer(1, callback, val_every=1), verb)(module, data(eval_batch_size=4), **more)
    with pytest.raises(ZeroDivisionError):
        trainer(2, callback, Watch(lambda trainer: 1 / 0)).fit(module, data())


def test_every_hook_is_called_as_often_as_under_lightning_alone(trainer, model, data, tmp_path):
    tiny = type(model())
    found = {}
    for base in (Plain, tiny):
        of_callback, of_module = Counter(), Counter()
        kind = counting(base, MODULE_HOOKS, of_module)
        module = kind() if base is Plain else kind((2,), None, None, lr_schedule=torch.optim.lr_scheduler.ConstantLR)
        all_verbs(module, counting(Callback, CALLBACK_HOOKS, of_callback)(), trainer, data, tmp_path)
        found[base] = of_callback, of_module
    for plain, ours in zip(found[Plain], found[tiny]):
        assert ours == plain
    assert set(CALLBACK_HOOKS) - found[tiny][0].keys() == {"load_state_dict"}  # there is no state
    # Lightning asks the data module alone, which has one of its own
    assert set(MODULE_HOOKS) - found[tiny][1].keys() == {"on_after_batch_transfer"}
