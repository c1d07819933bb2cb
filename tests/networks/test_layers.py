import pytest
import torch

from lightning_gen.networks.layers import modulated_group_norm, upsample


def test_modulated_norm_uses_the_examples_own_scale_and_shift():
    x, gain, shift = torch.randn(3, 6, 4, 5, dtype=torch.float64), *torch.randn(2, 3, 6, dtype=torch.float64)
    out = modulated_group_norm(x, 2, gain, shift)
    normal = ((out - shift[:, :, None, None]) / gain[:, :, None, None]).unflatten(1, (2, 3)).flatten(2)
    assert torch.allclose(normal.mean(2), torch.zeros(3, 2, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(normal.var(2, unbiased=False), torch.ones(3, 2, dtype=torch.float64), atol=1e-4)
    last = modulated_group_norm(x.to(memory_format=torch.channels_last), 2, gain, shift)
    assert torch.allclose(out, last)


@pytest.mark.parametrize("size", [(6, 10), (5, 9), (6, 9)])
def test_upsampling_puts_pixel_i_over_i_halved(size):
    x = torch.randn(2, 3, 3, 5)
    rows, columns = torch.arange(size[0]) // 2, torch.arange(size[1]) // 2
    assert torch.equal(upsample(x, torch.Size(size)), x[:, :, rows][:, :, :, columns])
