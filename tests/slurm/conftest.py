"""A Slurm to run jobs on, where one answers; no test here needs more of it than two nodes of two CPUs."""

import os
import shutil
import subprocess
import sys
import time
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


@pytest.fixture
def cluster():
    """A `Cluster`; the test is skipped where no Slurm answers."""
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
    yield made
    for job in made.jobs:
        made.call("scancel", "--quiet", job, check=False)
