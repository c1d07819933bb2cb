"""Laws of a network as a predictor: what it is given, and that no image is transposed on its way through."""

import pytest
import torch
from torch import nn

from lightning_gen.discrete_diffusion import (
    Absorbing,
    Ancestral,
    AnyOrder,
    Categorical,
    DiscreteDiffusion,
    DiscretizedLogistic,
    NetworkPredictor,
    OneHot,
    Ordinal,
    Uniform,
    VariationalBound,
)
from lightning_gen.random_source import IndexedSource


class Shift(nn.Module):
    """A convolution that says with certainty, at each component, what stands one to its left in its own channel (an image
    of two channels; the first column sees zeros), or in the whole of a sequence; `by` (0, 0) is the identity."""

    def __init__(self, shape, out_channels, cond_dim, by, sure=50.0):
        super().__init__()
        images = len(shape) == 3
        self.convolution = (nn.Conv2d if images else nn.Conv1d)(shape[0], out_channels, 3, padding=1, bias=False)
        nn.init.zeros_(self.convolution.weight)
        channels = 2 if images else 1
        features, levels = shape[0] // channels, out_channels // channels
        at = tuple(1 - b for b in by) if images else (1 - by[1],)
        for c in range(channels):
            for level in range(levels):
                self.convolution.weight.data[(c * levels + level, c * features + level, *at)] = sure
        self.given = []

    def forward(self, x, logsnr, cond=None):
        self.given.append((x.shape, x.dtype, logsnr, cond))
        return self.convolution(x)


def model(shape, by, process=None, **kwargs):
    module = DiscreteDiffusion(shape, 4, None, lambda *given: Shift(*given, by), process or Absorbing(), **kwargs)
    module.configure_model()
    return module.eval()


def levels(shape, num=3):
    return torch.randint(4, (num, *shape), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("process", [Absorbing(), Uniform()])
@pytest.mark.parametrize("shape", [(2, 3, 5), (7,)])
def test_an_identity_stays_in_its_place(shape, process):
    """Encoding, network and head: what is said of each component is what stood there."""
    module, x = model(shape, (0, 0), process, steps=4), levels(shape)
    log_w = module.predictor(x, torch.zeros(3))
    assert log_w.shape == (3, *shape, 4) and log_w.dtype == torch.float32
    assert torch.equal(log_w.argmax(-1), x) and log_w.amax(-1).min() > -1e-6


@pytest.mark.parametrize(("by", "dim"), [((0, 1), -1), ((1, 0), -2)])
def test_a_shift_of_an_image_is_a_shift_of_what_is_said(by, dim):
    """Along the width and along the height, which differ; neither channel speaks of the other."""
    module, x = model((2, 3, 5), by), levels((2, 3, 5))
    log_w = module.predictor(x, torch.zeros(3))
    inner = slice(1, None), slice(1, None)
    assert torch.equal(log_w.argmax(-1)[..., *inner], x.roll(1, dim)[..., *inner])


def test_a_shift_of_a_sequence_is_a_shift_of_what_is_said():
    module, x = model((7,), (0, 1)), levels((7,))
    assert torch.equal(module.predictor(x, torch.zeros(3)).argmax(-1)[:, 1:], x[:, :-1])


@pytest.mark.parametrize("sampler", [Ancestral(40), AnyOrder()])
def test_infilling_by_a_shift_copies_along_the_width(sampler):
    """The whole module: all but the first column are holes, and each becomes what its left neighbour is."""
    module, x = model((2, 3, 5), (0, 1)), levels((2, 3, 5)).to(torch.uint8)
    module.network.convolution.weight.data[:, 4::5] = 0  # a mask says nothing
    known = torch.zeros(2, 3, 5, dtype=torch.bool)
    known[..., :1] = True
    known[..., 2:] = True
    found = module.impute(x, known, imputer=type(module.imputer)(sampler))
    assert torch.equal(found[..., 1], x[..., 0]) and torch.equal(found[..., 2:], x[..., 2:])


def test_likelihood_and_samples_have_the_shape_of_the_data():
    for shape in ((2, 3, 5), (7,)):
        module = model(shape, (0, 0))
        assert module.sample(3).shape == (3, *shape) and module.sample(3).dtype == torch.uint8
        found = module.log_likelihood(levels(shape).to(torch.uint8), estimator=VariationalBound(), draws=2)
        assert found.log_prob.shape == (3,) and found.num_dims == torch.Size(shape).numel()


def test_a_module_draws_by_index():
    module = model((7,), (0, 1))
    before = torch.get_rng_state()
    whole = module.sample(5, rng=IndexedSource(1, range(5)))
    for i in range(5):
        assert torch.equal(module.sample(1, rng=IndexedSource(1, [i]))[0], whole[i])
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("encoding", "head", "expected"),
    [
        (OneHot(), Categorical(), ((10, 3, 5), 8)),
        (Ordinal(), Categorical(), ((4, 3, 5), 8)),
        (OneHot(), DiscretizedLogistic(), ((10, 3, 5), 4)),
        (Ordinal(), DiscretizedLogistic(), ((4, 3, 5), 4)),
    ],
)
def test_the_network_is_built_for_features_of_states_and_numbers_of_the_head(encoding, head, expected):
    built = []

    def network(shape, out_channels, cond_dim):
        built.append((shape, out_channels, cond_dim))
        return Remembers()

    module = DiscreteDiffusion((2, 3, 5), 4, None, network, Absorbing(), encoding=encoding, head=head)
    module.configure_model()
    assert built == [(*expected, None)]
    module = DiscreteDiffusion((7,), 4, None, network, Uniform(), steps=5, encoding=OneHot(), head=head)
    module.configure_model()
    assert built[1] == ((4, 7), head.numbers(4), None)


class Remembers(nn.Module):
    """Zeros, in its weights' dtype."""

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.weight, self.given = nn.Parameter(torch.zeros(1, dtype=dtype)), []

    def forward(self, x, logsnr, cond=None):
        self.given.append((x, logsnr, cond))
        return torch.zeros(len(x), 4, 7, dtype=x.dtype) + self.weight


@pytest.mark.parametrize("timeless", [False, True])
def test_the_network_is_told_the_noise_unless_it_is_timeless(timeless):
    network = Remembers()
    predictor = NetworkPredictor(network, OneHot(), Categorical(), 4, 5, timeless=timeless)
    told = torch.tensor([1.0, -2.0, 15.0])
    predictor(levels((7,)), told)
    assert torch.equal(network.given[0][1], torch.zeros(3) if timeless else told)
    predictor(levels((7,)), torch.tensor(3.0))
    assert network.given[1][1].shape == (3,) and network.given[1][1].dtype == torch.float32


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_what_is_said_is_at_least_float32(dtype):
    network = Remembers(dtype)
    log_w = NetworkPredictor(network, OneHot(), Categorical(), 4, 5)(levels((7,)), torch.zeros(3))
    assert network.given[0][0].dtype == dtype
    assert log_w.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(log_w.exp(), torch.full_like(log_w, 0.25))


class Labels(nn.Module):
    """Says what it was asked."""

    def forward(self, y, drop=None):
        return y.double() if drop is None else torch.where(drop, -1.0, y.double())

    def null(self, num, device):
        return torch.full((num,), -1.0, dtype=torch.float64, device=device)


def test_y_goes_by_the_conditioner_and_none_is_the_null_condition():
    network = Remembers()
    predictor = NetworkPredictor(network, OneHot(), Categorical(), 4, 5, Labels())
    x, y = levels((7,)), torch.tensor([2, 0, 1])
    predictor(x, torch.zeros(3), y)
    predictor(x, torch.zeros(3), y, torch.tensor([True, False, False]))
    predictor(x, torch.zeros(3))
    assert [given[2].tolist() for given in network.given] == [[2, 0, 1], [-1, 0, 1], [-1, -1, -1]]
