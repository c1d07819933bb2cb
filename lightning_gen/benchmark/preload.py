"""What the fork server imports once for all cells. It must compute nothing: a process that has used threads cannot fork."""

import matplotlib.figure  # noqa: F401

import lightning_gen.cli
import lightning_gen.diffusion.oracles
import lightning_gen.evaluation.judge
import lightning_gen.pictures  # noqa: F401
from lightning_gen.evaluation.provenance import provenance

provenance()  # of the code that is imported here and now: the checkout may change while the cells train
