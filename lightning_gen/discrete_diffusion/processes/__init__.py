"""What happens to a component of x: the processes q(x_t | x_0) and their reversal."""

from lightning_gen.discrete_diffusion.processes.absorbing import Absorbing, OrderedAbsorbing
from lightning_gen.discrete_diffusion.processes.base import Process
from lightning_gen.discrete_diffusion.processes.gaussian import DiscretizedGaussian
from lightning_gen.discrete_diffusion.processes.uniform import Uniform

__all__ = ["Absorbing", "DiscretizedGaussian", "OrderedAbsorbing", "Process", "Uniform"]
