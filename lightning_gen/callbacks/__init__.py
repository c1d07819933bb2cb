"""Callbacks: weight averages, checkpoints, sample sheets, fidelity, throughput, progress, a run's beginning and its stops."""

from lightning_gen.callbacks.checkpoints import Checkpoints
from lightning_gen.callbacks.ema import EMA
from lightning_gen.callbacks.fidelity import Fidelity, TestFidelity
from lightning_gen.callbacks.preemption import Preemption
from lightning_gen.callbacks.progress import Progress
from lightning_gen.callbacks.run_begins import RunBegins
from lightning_gen.callbacks.sample_sheet import SampleSheet
from lightning_gen.callbacks.throughput import Throughput

__all__ = [
    "EMA",
    "Checkpoints",
    "Fidelity",
    "Preemption",
    "Progress",
    "RunBegins",
    "SampleSheet",
    "TestFidelity",
    "Throughput",
]
