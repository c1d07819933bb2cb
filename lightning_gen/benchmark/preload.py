"""What the fork server imports once for all cells. It must compute nothing: a process that has used threads cannot fork."""

import matplotlib.figure  # noqa: F401

import lightning_gen.cli
import lightning_gen.diffusion.oracles
import lightning_gen.evaluation.judge
import lightning_gen.pictures  # noqa: F401
