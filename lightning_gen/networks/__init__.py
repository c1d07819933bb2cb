"""Networks: they know nothing of schedules, likelihoods or labels. There are two conventions.

Of a noisy example: `network(x, logsnr, cond=None)` -> a tensor. x is float [B, *shape]; logsnr float32 [B], nats, within
about [-20, 20]; cond float [B, cond_dim] or None. Constructors begin with (shape, out_channels, cond_dim), which the family
supplies once the data are known.

From one shape to another, a `Map`: `network(x, cond=None)` -> [B, *out_shape]. x is float [B, *in_shape]. Constructors begin
with (in_shape, out_shape, cond_dim); `start_at` sets where the output starts. Encoders, decoders and the layers of
hierarchies are such.
"""

from lightning_gen.networks.adm_unet import ADMUNet
from lightning_gen.networks.autoencoders import Bottleneck, NoiseBlind
from lightning_gen.networks.conditioners import ClassEmbedding, LinearConditioner
from lightning_gen.networks.conv_maps import ConvDecoder, ConvEncoder
from lightning_gen.networks.ddpm_unet import DDPMUNet
from lightning_gen.networks.ddpmpp_unet import DDPMPPUNet
from lightning_gen.networks.diffusers_unet import DiffusersUNet
from lightning_gen.networks.dit import DiT, DiTB, DiTL, DiTS, DiTXL
from lightning_gen.networks.embeddings import LogSNREmbedding
from lightning_gen.networks.maps import Map, MLPBlock, PlainMLP, ResidualMLP
from lightning_gen.networks.mlp import MLP
from lightning_gen.networks.plain_conv import ConvNet
from lightning_gen.networks.residual_maps import ConvBlock, ResidualDecoder, ResidualEncoder
from lightning_gen.networks.transformer import Transformer
from lightning_gen.networks.unet import UNet

__all__ = [
    "MLP",
    "ADMUNet",
    "Bottleneck",
    "ClassEmbedding",
    "ConvBlock",
    "ConvDecoder",
    "ConvEncoder",
    "ConvNet",
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
    "MLPBlock",
    "Map",
    "NoiseBlind",
    "PlainMLP",
    "ResidualDecoder",
    "ResidualEncoder",
    "ResidualMLP",
    "Transformer",
    "UNet",
]
