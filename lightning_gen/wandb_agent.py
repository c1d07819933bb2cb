"""python -m lightning_gen.wandb_agent [--count N] ENTITY/PROJECT/SWEEP: W&B's own agent, in a job whose time ends.

`wandb agent` dies at once of the signal that announces it, and leaves its run behind; of the signals that it does pass on and
wait for (SIGHUP, SIGTERM) the run's W&B service dies, where Slurm sends them to every process of a step.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

from lightning_gen.cluster.stop import announcing
from lightning_gen.errors import UserError

TERM_TIMEOUT_S = 240
"""Seconds that the agent waits for its run, which saves, and kills it then: within what `--signal=USR1@300` leaves."""


def main(args: list[str]) -> int:
    """Runs the agent. The announcing signal and SIGTERM, the first of them, are passed on to its run; the agent takes no
    other, waits for the end of that one, and the exit status is 75 or 143. Otherwise it is the agent's own.

    Args:
        args: what `wandb agent` takes.
    """
    told: signal.Signals | None = None

    def leave(number: int, frame: FrameType | None) -> None:
        nonlocal told
        if told is None:
            told = signal.Signals(number)
            raise KeyboardInterrupt  # by which the agent leaves in good order; it has passed the signal on before

    for number in (announcing(), signal.SIGTERM):
        signal.signal(number, leave)
    status: int | str | None = 0
    try:
        _agent(["--forward-signals", "--term-timeout", str(TERM_TIMEOUT_S), *args])
    except SystemExit as end:
        status = end.code
    except KeyboardInterrupt:  # before it had begun
        status = 130
    if told is not None:
        return 128 + told if told == signal.SIGTERM else os.EX_TEMPFAIL
    return status if isinstance(status, int) else int(status is not None)


def _agent(args: list[str]) -> None:
    """Ends by SystemExit, as a command does."""
    from wandb.cli.cli import agent

    known = {name for parameter in agent.params for name in parameter.opts}
    if not {"--forward-signals", "--term-timeout"} <= known:
        raise UserError("the agent of this version of wandb passes no signals on: install 0.31 or a later one")
    agent.main(args, prog_name="wandb agent")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        sys.exit(f"lightning_gen.wandb_agent: {error}")
