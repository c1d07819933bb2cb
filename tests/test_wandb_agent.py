"""W&B's own agent in a job: told to stop, it has its run stop, takes no other, and says that it is to be started again."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SERVER = """
    import os, sys
    from types import SimpleNamespace
    import wandb
    from wandb import wandb_agent
    from wandb.apis.public import sweeps

    def heartbeat(api, agent, metrics, running):
        open("heartbeats", "a").write("x")
        if running:
            return []
        number = len(os.listdir("runs"))
        if number == 2:
            return [{"type": "exit"}]
        open(f"runs/{number}", "w")
        return [{"type": "run", "run_id": str(number), "program": "none", "args": {}}]

    command = [sys.executable, "-u", "run.py"]
    sweeps._sweep_with_runs = lambda *args: {"config": repr({"command": command})}
    sweeps._register_agent = lambda *args, **kwargs: {"id": "a"}
    sweeps._agent_heartbeat = heartbeat
    wandb.Api = SimpleNamespace
    wandb.teardown = lambda *args: None
    wandb_agent.Agent.POLL_INTERVAL = 0.05
    from lightning_gen.wandb_agent import main
    sys.exit(main(["me/lab/s7"]))
"""
"""W&B's server answers in the process; the agent and what it starts are real."""

RUN = """
    import signal, sys
    def stop(number, frame):
        print("told", signal.Signals(number).name)
        sys.exit(75)
    for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM):
        signal.signal(number, stop)
    print("begun")
    {then}
"""


@pytest.fixture
def agent(tmp_path):
    """agent(then): an agent, whose first run has begun and does `then`; its directory is tmp_path."""
    processes = []

    def function(then):
        (tmp_path / "runs").mkdir()
        (tmp_path / "run.py").write_text(textwrap.dedent(RUN).format(then=then))
        nobody = {"WANDB_API_KEY": "k" * 40, "WANDB_BASE_URL": "http://127.0.0.1:9"}
        environment = {**os.environ, **nobody, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
        for name in ("LIGHTNING_GEN_SIGNAL", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
            environment.pop(name, None)
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(SERVER)],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        processes.append(process)
        while process.stdout.readline() != "begun\n":
            assert process.poll() is None
        return process

    yield function
    for process in processes:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGUSR1, 75), (signal.SIGTERM, 143)])
def test_an_agent_that_is_told_stops_its_run_waits_for_it_and_takes_no_other(agent, tmp_path, guarded, number, status):
    process = agent("signal.pause()")
    process.send_signal(number)
    said, _ = process.communicate(timeout=30)
    assert said == f"told {number.name}\n" and process.returncode == status
    assert os.listdir(tmp_path / "runs") == ["0"]


def test_an_agent_that_is_not_told_ends_with_its_sweep(agent, tmp_path, guarded):
    process = agent("")
    said, _ = process.communicate(timeout=30)
    assert process.returncode == 0 and said == "begun\n" and len(os.listdir(tmp_path / "runs")) == 2


def test_an_agent_that_passes_no_signals_on_is_refused(monkeypatch):
    from wandb.cli import cli

    from lightning_gen import wandb_agent
    from lightning_gen.errors import UserError

    monkeypatch.setattr(cli.agent, "params", [])
    monkeypatch.setattr(wandb_agent.signal, "signal", lambda *args: None)
    with pytest.raises(UserError, match="wandb"):
        wandb_agent.main(["me/lab/s7"])
