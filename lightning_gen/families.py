"""Importing this imports every family: configs then name their classes without modules."""

import lightning_gen.dae.module
import lightning_gen.dae.oracles
import lightning_gen.diffusion.module
import lightning_gen.discrete_diffusion.module
import lightning_gen.flow.module
import lightning_gen.networks
import lightning_gen.vae.hierarchical_module  # noqa: F401
