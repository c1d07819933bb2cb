"""A run that is told to stop saves where it is, in training or validation, and goes on from there without a trace."""

from __future__ import annotations

import signal
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_gen.callbacks.checkpoints import Checkpoints, validation_due
from lightning_gen.cluster import slurm, stop
from lightning_gen.cluster.agreement import Agreement
from lightning_gen.errors import Interrupted, UserError
from lightning_gen.wandb_run import mark_preempting

AGAIN = 75
"""Exit status of a run that was stopped before its time was up (EX_TEMPFAIL): the batch script has it started again."""

_TIME = 1
"""What a rank says when its job's time is running out; otherwise it says the number of its signal, or 0."""


class Preemption(Callback):
    """Ends training at a step that is saved, once any rank was sent SIGTERM or the signal that announces the end of the
    job's time, or that time, as Slurm knows it, is running out.

    The ranks agree on it at the end of each step, and of each batch of a validation, one late, so that none waits for it.
    A validation that is cut is made from its beginning when the run goes on; the last step is not cut any more. Rank zero
    ends with status 75, or with 143 after SIGTERM, the others with 0.

    Must come after all other callbacks, which then have done what belongs to the step.

    Args:
        lead_s: seconds before the job's time limit at which it leaves by itself, beside the time that two checkpoints take.
    """

    def __init__(self, lead_s: float = 60.0) -> None:
        if lead_s < 0:
            raise UserError(f"preemption.lead_s must be at least 0 seconds, not {lead_s}")
        self.lead_s = lead_s
        self._validates = False  # the validation of the step that was saved is still to be made
        self._rounds = 0  # batches of a validation that every rank has
        self._seen = -1

    # ---- being told -----------------------------------------------------------------------------------------------

    def _wish(self, trainer: Trainer) -> int:
        """What this rank knows."""
        signalled = stop.told()
        if signalled is not None:
            return int(signalled)
        return _TIME if trainer.is_global_zero and self._time.seconds() < self._lead(trainer) else 0

    def _lead(self, trainer: Trainer) -> float:
        lead = self.lead_s + 2 * self._checkpoints(trainer).seconds
        return min(lead, self._time.at_first() / 2)  # a job that is short trains for half of its time

    @staticmethod
    def _checkpoints(trainer: Trainer) -> Checkpoints:
        return next(callback for callback in trainer.callbacks if isinstance(callback, Checkpoints))

    # ---- where it stops -------------------------------------------------------------------------------------------

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._seen = trainer.global_step
        self._time = slurm.TimeLeft(slurm.job_id() if trainer.is_global_zero else None)
        self._agreement = Agreement()
        self._stop_if(self._agreement.now(self._wish(trainer)), trainer)
        if self._validates:
            _validate(trainer)
            self._validates = False

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if trainer.global_step == self._seen or trainer.global_step == trainer.max_steps:
            return  # an accumulation's micro-batch; the last step
        self._seen = trainer.global_step
        agreed = self._agreement.say(self._wish(trainer))
        self._validates = bool(agreed) and validation_due(trainer)
        self._stop_if(agreed, trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.state.fn == "fit":  # the shards of ranks may differ by a batch
            self._rounds = self._agreement.least(int(sum(trainer.num_val_batches)))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        if trainer.state.fn != "fit" or batch_idx >= self._rounds or trainer.global_step == trainer.max_steps:
            return  # the last step is saved when all that belongs to it is made
        agreed = self._agreement.say(self._wish(trainer))
        self._validates = bool(agreed)
        self._stop_if(agreed, trainer)

    def _stop_if(self, agreed: int, trainer: Trainer) -> None:
        if not agreed:
            return
        if trainer.global_step:
            self._checkpoints(trainer).save(trainer)
        if agreed != signal.SIGTERM:  # by which a sweep's agent, too, ends a run that it gives up
            mark_preempting(trainer.loggers)
        why = "the time limit" if agreed == _TIME else signal.Signals(agreed).name
        status = 128 + agreed if agreed == signal.SIGTERM else AGAIN
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
        if self._seen >= 0:
            self._time.close()

    # ---- what a checkpoint says of it -----------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        return {"validates": self._validates}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._validates = state_dict["validates"]


def _validate(trainer: Trainer) -> None:
    """The validation of the step that a run goes on from, as if it had just been made."""
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.restarting = False
    loop.reset_restart_stage()
    trainer.validating = True
    loop.run()
    trainer.training = True
