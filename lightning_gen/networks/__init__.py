"""Networks: `network(x, logsnr, cond=None)` -> a tensor. They know nothing of schedules, likelihoods or labels.

x is float [B, *shape]; logsnr float32 [B], nats, within about [-20, 20]; cond float [B, cond_dim] or None. Constructors
begin with (shape, out_channels, cond_dim), which the family supplies once the data are known.
"""

from lightning_gen.networks.adm_unet import ADMUNet
from lightning_gen.networks.conditioners import ClassEmbedding, LinearConditioner
from lightning_gen.networks.ddpm_unet import DDPMUNet
from lightning_gen.networks.ddpmpp_unet import DDPMPPUNet
from lightning_gen.networks.diffusers_unet import DiffusersUNet
from lightning_gen.networks.dit import DiT, DiTB, DiTL, DiTS, DiTXL
from lightning_gen.networks.embeddings import LogSNREmbedding
from lightning_gen.networks.mlp import MLP
from lightning_gen.networks.unet import UNet

__all__ = [
    "MLP",
    "ADMUNet",
    "ClassEmbedding",
    "DDPMPPUNet",
    "DDPMUNet",
    "DiT",
    "DiTB",
    "DiTL",
    "DiTS",
    "DiTXL",
    "DiffusersUNet",
    "LinearConditioner",
    "LogSNREmbedding",
    "UNet",
]
