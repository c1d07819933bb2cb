"""A project's root without a Slurm, and a stand-in for `sbatch` that writes down what it was given."""

import os
import shutil
from pathlib import Path

import pytest

from lightning_gen.launch import experiment

ROOT = Path(__file__).resolve().parents[2]

FAKE = """#!/usr/bin/env bash
# what is submitted is a file, what is asked about is standard input
printf '%s\\n' "$@" >"$0.arguments"
env >"$0.environment"
if [ "$1" = --test-only ]; then
  cat >"$0.script"
  [ -z "$REFUSES" ] || { echo "sbatch: error: $REFUSES" >&2; exit 1; }
  echo "sbatch: Job 77 to start at noon" >&2
else
  [ -z "$REFUSES" ] || { echo "sbatch: error: $REFUSES" >&2; exit 1; }
  cp "${!#}" "$0.script"
  echo "77;cluster"
fi
"""


class Sbatch:
    """What the stand-in was given."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def _read(self, what: str) -> str | None:
        file = self.path.with_name(f"sbatch.{what}")
        return file.read_text() if file.exists() else None

    @property
    def arguments(self) -> list[str]:
        return (self._read("arguments") or "").splitlines()

    @property
    def environment(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self._read("environment") or "").splitlines() if "=" in line)

    @property
    def script(self) -> str | None:
        return self._read("script")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """The project's root as the working directory: configs and templates are its own, what is made is not."""
    for name in ("configs", "slurm"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(experiment, "built", lambda args: None)  # half a second each; tested by itself
    tools = tmp_path / "no_slurm"
    tools.mkdir()
    for name in ("bash", "env", "cat", "cp"):
        (tools / name).symlink_to(shutil.which(name))
    monkeypatch.setenv("PATH", str(tools))
    for name in os.environ:
        if name.startswith(("SLURM_", "SBATCH_")):
            monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture
def sbatch(project, monkeypatch):
    """A Slurm that takes everything, as job 77; what the environment variable REFUSES says it refuses."""
    (project / "no_slurm" / "sbatch").write_text(FAKE)
    (project / "no_slurm" / "sbatch").chmod(0o755)
    monkeypatch.setenv("REFUSES", "")
    return Sbatch(project / "no_slurm" / "sbatch")
