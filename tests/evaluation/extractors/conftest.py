"""A file of weights for torch-fidelity's Inception, drawn from a seed: there is no network where tests run."""

import io

import pytest
import torch
from torch import nn


@pytest.fixture(scope="session")
def inception_weights(tmp_path_factory):
    """Path of weights under which features of different images differ, in all layers: He's scale, statistics near 0 and 1."""
    from torch_fidelity import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    network = Unloaded("inception-v3-compat", ["2048"], feature_extractor_weights_path=nothing)
    generator = torch.Generator().manual_seed(0)
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            layer.weight.normal_(0, (2 / layer.weight[0].numel()) ** 0.5, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 2, generator=generator)
        elif isinstance(layer, nn.Linear):
            layer.weight.normal_(0, 3, generator=generator)
            layer.bias.normal_(0, 1, generator=generator)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(network.state_dict(), path)
    return str(path)


@pytest.fixture(scope="session")
def photographs():
    """photographs(num, seed, shift=0): uint8 [num, 3, 32, 32] of different colours and contrasts."""

    def function(num, seed, shift=0.0, size=32):
        generator = torch.Generator().manual_seed(seed)
        colour = 60 + shift + 100 * torch.rand(num, 3, 1, 1, generator=generator)
        contrast = 80 * torch.rand(num, 1, 1, 1, generator=generator)
        noise = torch.randn(num, 3, size, size, generator=generator)
        return (colour + contrast * noise).clamp(0, 255).to(torch.uint8)

    return function
