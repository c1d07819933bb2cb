import pytest
import torch
from torch import nn


@pytest.fixture
def awaken():
    """Gives every parameter of a network random values, so that what starts at zero takes part."""

    def function(network: nn.Module) -> nn.Module:
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for p in network.parameters():
                fan_in = p[0].numel() if p.ndim > 1 else 16
                p.copy_(torch.randn(p.shape, generator=generator) * fan_in**-0.5)
        return network.eval()

    return function
