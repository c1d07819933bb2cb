import pytest
import torch

from lightning_gen.networks import LogSNREmbedding


def distinct_rows(embedding: torch.Tensor) -> int:
    return len(torch.unique(embedding.detach().float(), dim=0))


def test_autocast_tells_a_thousand_noise_levels_apart():
    embedding = LogSNREmbedding(32)
    with torch.autocast("cpu", torch.bfloat16):
        assert distinct_rows(embedding(torch.linspace(-20.0, 20.0, 1000))) == 1000


def test_autocast_changes_nothing():
    embedding, logsnr = LogSNREmbedding(32), torch.linspace(-20.0, 20.0, 100)
    expected = embedding(logsnr)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(embedding(logsnr), expected)


def test_sines_stay_float32_when_the_weights_are_bfloat16():
    embedding, logsnr = LogSNREmbedding(32), torch.linspace(-20.0, 20.0, 1000)
    features = []
    embedding.mlp.register_forward_pre_hook(lambda module, args: features.append(args[0].float()))
    embedding(logsnr)
    embedding.bfloat16()(logsnr)
    assert distinct_rows(features[1]) == 1000
    assert (features[0] - features[1]).abs().max() < 2**-8  # bfloat16 rounds the sines, not their angles


def test_one_feature_rises_over_the_whole_range_and_another_turns_within_a_nat():
    features = []
    embedding = LogSNREmbedding(64)
    embedding.mlp.register_forward_pre_hook(lambda module, args: features.append(args[0]))
    embedding(torch.arange(-20.0, 20.0, 0.1))
    slopes = features[0].diff(dim=0).sign()
    assert (slopes == 1).all(dim=0).any()
    assert (slopes.unfold(0, 10, 10).diff(dim=2) != 0).any(dim=2).all(dim=0).any()


def test_odd_dim_is_refused():
    with pytest.raises(ValueError, match="dim must be even"):
        LogSNREmbedding(7)
    with pytest.raises(ValueError, match="waves must be even"):
        LogSNREmbedding(8, waves=7)


def test_the_waves_can_be_fewer_than_the_features():
    embedding = LogSNREmbedding(7, waves=4)
    assert embedding.mlp[0].in_features == 4
    assert embedding(torch.zeros(3)).shape == (3, 7)
