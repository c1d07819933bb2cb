import pytest
import torch

from lightning_gen.networks.layers import attend, downsample, modulated_group_norm, upsample


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


@pytest.mark.parametrize("size", [(6, 10), (5, 9), (6, 9), (1, 3), (1, 1)])
def test_downsampling_undoes_upsampling_and_keeps_the_mean_of_whole_pairs(size):
    coarse = torch.randn(2, 3, -(-size[0] // 2), -(-size[1] // 2))
    assert torch.allclose(downsample(upsample(coarse, torch.Size(size))), coarse, atol=1e-6)
    x = torch.randn(2, 3, 2 * size[0], 2 * size[1])
    assert torch.allclose(downsample(x).mean((2, 3)), x.mean((2, 3)), atol=1e-6)


def test_attention_is_a_softmax_of_scaled_products_in_each_head():
    qkv = torch.randn(2, 5, 3 * 6, dtype=torch.float64)
    q, k, v = qkv.split(6, dim=2)
    for head in (slice(0, 3), slice(3, 6)):
        weights = torch.einsum("bnc,bmc->bnm", q[..., head], k[..., head]).div(3**0.5).softmax(2)
        assert torch.allclose(attend(qkv, 2)[..., head], weights @ v[..., head])
