"""A run that is told to stop saves where it is, in training or validation, and goes on from there without a trace."""

from __future__ import annotations

import math
import signal
import time
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.callbacks.checkpoints import Checkpoints, validation_due
from lightning_gen.cluster import slurm, stop
from lightning_gen.cluster.agreement import Agreement
from lightning_gen.errors import AGAIN, Interrupted, UserError
from lightning_gen.wandb_run import mark_preempting

_TIME, _ANNOUNCED, _TERMINATED = 1, 2, 3
"""What a rank says of why it should stop, the most urgent last; 0 where it need not."""


class Preemption(Callback):
    """Ends training at a step that is saved, once any rank was sent SIGTERM or the signal that announces the end of the
    job's time, or that time, as Slurm knows it, is running out.

    The ranks agree on it at the end of each step, and of each batch of a validation, one late, so that none waits for it.
    A validation that is cut is made from its beginning when the run goes on; the last step is not cut any more. Rank zero
    ends with status 75, or with 143 after SIGTERM, the others with 0.

    Must come after all other callbacks, which then have done what belongs to the step.

    Args:
        lead_s: seconds before the job's time limit at which it leaves by itself, beside what two checkpoints and the longest
            two steps (with their sheets) have taken so far.
    """

    def __init__(self, lead_s: float = 60.0) -> None:
        if lead_s < 0:
            raise UserError(f"preemption.lead_s must be at least 0 seconds, not {lead_s}")
        self.lead_s = lead_s
        self._validates = False  # the validation of the step that was saved is still to be made
        self._rounds = 0  # batches of a validation that every rank has, still to come
        self._seen = -1
        self._save_s = 0.0  # the longest that a checkpoint took, also in starts before
        self._round_s = 0.0  # the longest between two rounds
        self._last_round = math.inf
        self._time = slurm.TimeLeft(None)

    # ---- being told -----------------------------------------------------------------------------------------------

    def _wish(self, trainer: Trainer) -> int:
        """What this rank knows."""
        signalled = stop.told()
        if signalled is not None:
            return _TERMINATED if signalled == signal.SIGTERM else _ANNOUNCED
        return _TIME if trainer.is_global_zero and self._time.seconds() < self._lead() else 0

    def _lead(self) -> float:
        """Seconds before the limit: until all have agreed another round goes by, and what the step brings with it."""
        self._save_s = max(self._save_s, self._checkpoints.seconds)
        lead = self.lead_s + 2 * (self._save_s + self._round_s)
        return min(lead, self._time.at_first() / 2)  # a job that is short trains for half of its time

    # ---- where it stops -------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = trainer.global_step
        self._checkpoints = next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))
        self._time = slurm.TimeLeft(slurm.job_id() if trainer.is_global_zero else None)
        self._agreement = Agreement()
        self._same_step(trainer)
        self._stop_if(self._agreement.now(self._wish(trainer)), trainer)
        if self._validates:
            _validate(trainer)
            self._validates = False

    def _same_step(self, trainer: Trainer) -> None:
        """Ends a start in which the ranks found different checkpoints, as a file system may show them for a while."""
        first, last = self._agreement.range(trainer.global_step)
        if first != last:
            raise Interrupted(
                f"the ranks were shown different checkpoints of {trainer.default_root_dir}, those of steps {first} to {last}: "
                "the same command again",
                AGAIN if trainer.is_global_zero else 0,
            )

    def _round(self, trainer: Trainer) -> int:
        """What was agreed in the round before; begins another."""
        now = time.monotonic()
        self._round_s = max(self._round_s, now - self._last_round)
        self._last_round = now
        return self._agreement.say(self._wish(trainer))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self._seen or trainer.global_step == trainer.max_steps:
            return  # an accumulation's micro-batch; the last step
        self._seen = trainer.global_step
        agreed = self._round(trainer)
        self._validates = bool(agreed) and validation_due(trainer)
        self._stop_if(agreed, trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit" and not trainer.sanity_checking:  # the shards of ranks may differ by a batch
            batches = sum(trainer.num_val_batches)
            self._rounds, _ = self._agreement.range(int(batches) if math.isfinite(batches) else 0)

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._rounds -= 1
        if (
            trainer.state.fn != "fit"
            or trainer.sanity_checking
            or self._rounds < 0
            or trainer.global_step == trainer.max_steps
        ):
            return  # the last step is saved when all that belongs to it is made
        agreed = self._round(trainer)
        self._validates = bool(agreed)
        self._stop_if(agreed, trainer)

    def _stop_if(self, agreed: int, trainer: Trainer) -> None:
        if not agreed:
            return
        self._agreement.last()  # all have begun it; a process does not end well beneath one
        if trainer.global_step:
            self._checkpoints.save(trainer)
        if agreed != _TERMINATED:  # by which a sweep's agent, too, ends a run that it gives up
            mark_preempting(trainer.loggers)
        why = {_TIME: "the time limit", _ANNOUNCED: stop.announcing().name, _TERMINATED: "SIGTERM"}[agreed]
        status = 128 + signal.SIGTERM if agreed == _TERMINATED else AGAIN
        step = trainer.global_step
        where = f"at step {step}, which is saved" if step else "before the first step"
        raise Interrupted(
            f"stopped by {why} {where}: lightning-gen fit --run {trainer.default_root_dir} goes on from there",
            status if trainer.is_global_zero else 0,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._agreement.last()  # no round is left behind
        self._time.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._time.close()

    # ---- what a checkpoint says of it -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"validates": self._validates, "save_s": self._save_s}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validates, self._save_s = state_dict["validates"], state_dict.get("save_s", 0.0)


def _validate(trainer: Trainer) -> None:
    """The validation of the step that a run goes on from, as if it had just been made."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    loop.reset_restart_stage()
    trainer.validating = True
    loop.run()
    trainer.training = True
