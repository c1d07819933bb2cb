"""A Slurm to run jobs on, where one answers; no test here needs more of it than two nodes of two CPUs."""

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
POLL_S = 0.3


def _answers() -> bool:
    if shutil.which("sinfo") is None:
        return False
    try:
        return subprocess.run(["sinfo", "-h"], capture_output=True, timeout=15, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        return False


@dataclass
class Cluster:
    """Jobs of one test; whatever is left of them ends with it.

    Attributes:
        environment: of the jobs: this interpreter first on the path, one thread, no W&B server.
    """

    environment: dict[str, str]
    jobs: list[str] = field(default_factory=list)

    def call(self, *command: str, check: bool = True) -> str:
        """What a command of Slurm prints."""
        made = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=False, cwd=ROOT, env=self.environment
        )
        assert not check or made.returncode == 0, f"{command}: {made.stderr}"
        return made.stdout

    def submit(self, *arguments: str, **environment: str) -> str:
        """The id of what `sbatch --parsable ARGUMENTS` submits from the project's root."""
        before, self.environment = self.environment, {**self.environment, **environment}
        try:
            job = self.call("sbatch", "--parsable", *arguments).strip().partition(";")[0]
        finally:
            self.environment = before
        self.jobs.append(job)
        return job

    def field(self, job: str, name: str) -> str:
        """A field of `scontrol show job`, such as JobState, Restarts or ExitCode; empty where the job is forgotten."""
        said = self.call("scontrol", "--oneliner", "show", "job", job, check=False)
        return next((word.partition("=")[2] for word in said.split() if word.startswith(f"{name}=")), "")

    def until(self, what, timeout: float = 180.0):
        """The first true value of `what()`, asked again and again."""
        deadline = time.monotonic() + timeout
        while not (found := what()):
            assert time.monotonic() < deadline, "the cluster did not come to it"
            time.sleep(POLL_S)
        return found

    def ended(self, job: str, timeout: float = 180.0) -> str:
        """The state that a job (of an array: all its elements) ends in, such as COMPLETED."""
        self.until(lambda: not self.call("squeue", "-h", "-j", job, check=False).strip(), timeout)
        return self.field(job, "JobState")


@contextmanager
def _entered(how: int) -> Iterator[Cluster]:
    """A `Cluster`, beside the other tests (LOCK_SH) or without them (LOCK_EX)."""
    if not _answers():
        pytest.skip("no Slurm answers here (sinfo)")
    own = {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
    }
    # what pytest-xdist and an enclosing job say of themselves is none of the jobs' affair
    outer = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "PYTEST_")) or k == "SLURM_CONF"}
    made = Cluster({**outer, **own})
    with open(Path(tempfile.gettempdir()) / "lightning_gen-slurm-tests.lock", "a") as lock:
        fcntl.flock(lock, how)
        yield made
        for job in made.jobs:
            made.call("scancel", "--quiet", job, check=False)


@pytest.fixture
def cluster():
    """A `Cluster`; the test is skipped where no Slurm answers."""
    with _entered(fcntl.LOCK_SH) as made:
        yield made


@pytest.fixture
def whole_cluster():
    """A `Cluster` whose nodes may be set down: no other test has jobs there."""
    with _entered(fcntl.LOCK_EX) as made:
        yield made
        nodes = made.call("sinfo", "-h", "-N", "-o", "%N %T").split()
        for node, state in set(zip(nodes[::2], nodes[1::2])):
            if state.startswith(("down", "drain")):
                made.call("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
