"""What is shown of latents, on a linear model whose every picture can be computed by hand."""

import pytest
import torch
from PIL import Image

from datamodules.loaders import Examples
from lightning_gen.errors import UserError
from lightning_gen.evaluation.latent_view import (
    LatentView,
    matching_pairs,
    normal_grid,
    pair_columns,
    save_sheet,
)
from lightning_gen.powers import Imputation, LatentVariables

SHAPE, LEVELS = (1, 5, 4), 17


class Scaled:
    """A sampler with a temperature, and a setting besides."""

    def __init__(self, temperature: float = 1.0, offset: float = 0.0) -> None:
        self.temperature, self.offset = temperature, offset


class Linear(LatentVariables, Imputation):
    """Latents are x W, E[x | z] is z W^T and twice the label; W has orthonormal columns."""

    levels, conditional = LEVELS, False

    def __init__(self, latents: int = 2, sampler=None) -> None:
        self.sampler = sampler or Scaled()
        generator = torch.Generator().manual_seed(0)
        self.w = torch.linalg.qr(torch.randn(20, latents, generator=generator))[0]

    @property
    def latents(self):
        return self.w.shape[1]

    def encode(self, x, y=None, *, rng=None):
        assert rng is None  # pictures show the posterior's mean
        return (x.flatten(1).float() - 2 * y[:, None]) @ self.w

    def decode(self, z, y=None):
        return self.expected(z, y).round()

    def expected(self, z, y=None):
        return (z @ self.w.T + 2 * y[:, None]).unflatten(1, SHAPE)

    def sample(self, num, y=None, *, sampler=None, rng=None):
        sampler = sampler or self.sampler
        return self.decode(sampler.temperature * rng.normal((num, self.latents)), y) + sampler.offset

    def impute(self, x, mask, y=None, *, imputer=None, rng=None):
        return torch.where(mask, x, rng.integers(LEVELS, x.shape).to(x.dtype))


class Labelled(Linear):
    conditional = True


X = torch.randint(LEVELS, (23, *SHAPE), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
Y = torch.arange(23) % 3


def view(model=None, batch_size: int = 256, **kwargs) -> LatentView:
    return LatentView(model or Linear(), Examples(X, Y), batch_size=batch_size, **kwargs)


def rebuilt(model, x=X, y=Y):
    return model.expected(model.encode(x, y), y)


def test_the_numbers_are_those_computed_by_hand():
    model, found = Linear(5), view(Linear(5), batch_size=4)
    z = model.encode(X, Y).double()
    torch.testing.assert_close(found.variances, (z - z.mean(0)).square().mean(0))
    errors = (rebuilt(model).double() - X).square().flatten(1).sum(1) / 20
    torch.testing.assert_close(found.squared_errors, errors)
    model.w[:, 1:3] *= 1e-3  # these dimensions tell nothing
    assert view(model).active_units == 3


def test_reconstructions_stand_beside_their_examples():
    shown = view().reconstructions(6)
    assert torch.equal(shown[:, 0], X[:6].float())
    torch.testing.assert_close(shown[:, 1], rebuilt(Linear())[:6])


@pytest.mark.parametrize("family", [Linear, Labelled])
def test_interpolations_end_in_the_reconstructions_of_different_examples(family):
    model, labelled = family(), family is Labelled
    shown = view(model).interpolations(8, 5)
    pairs = matching_pairs(8, 23, Y if labelled else None)
    assert shown.shape == (8, 5, *SHAPE) and len(pairs.unique()) == 16
    start, end = pairs.T
    torch.testing.assert_close(shown[:, 0], rebuilt(model)[start])
    torch.testing.assert_close(shown[:, -1], model.expected(model.encode(X[end], Y[start]), Y[start]))
    assert (Y[start] == Y[end]).all() == labelled


def test_pairs_are_disjoint_and_of_one_condition_whatever_it_is():
    assert matching_pairs(3, 100).tolist() == [[0, 1], [2, 3], [4, 5]]
    assert matching_pairs(9, 6, torch.tensor([0, 1, 2, 1, 0, 1])).tolist() == [[1, 3], [0, 4]]
    assert matching_pairs(9, 3, torch.tensor([[0.5, 1.0], [1.0, 0.5], [0.5, 1.0]])).tolist() == [[0, 2]]
    alone = LatentView(Labelled(), Examples(X[:3], Y[:3]))
    with pytest.raises(UserError, match="same label"):
        alone.interpolations(4, 3)


def test_a_traversal_has_the_example_in_its_middle_and_moves_one_dimension_a_row():
    model = Linear(6)
    shown = view(model).traversals(4, reach=2.5, stations=5, example=7)
    torch.testing.assert_close(shown[:, 2], rebuilt(model)[7].expand(4, *SHAPE))
    z = model.encode(shown.flatten(0, 1), Y[7].expand(20)).unflatten(0, (4, 5)) - model.encode(X[7:8], Y[7:8])
    most = model.encode(X, Y).var(0).argsort(descending=True)[:4]
    expected = torch.zeros(4, 5, 6)
    expected[torch.arange(4), :, most] = torch.tensor([-2.5, -1.25, 0, 1.25, 2.5])
    torch.testing.assert_close(z, expected, atol=1e-5, rtol=0)


def test_the_manifold_is_the_mean_at_quantiles_of_the_normal():
    grid = normal_grid(4)
    quarters = torch.distributions.Normal(0, 1).cdf(grid)
    steps = torch.tensor([0.125, 0.375, 0.625, 0.875])
    torch.testing.assert_close(quarters[..., 0], steps.expand(4, 4))  # to the right
    torch.testing.assert_close(quarters[..., 1], steps.flip(0)[:, None].expand(4, 4))  # upwards
    shown = view().manifold(4, example=2)
    torch.testing.assert_close(shown, Linear().expected(grid.flatten(0, 1), Y[2].expand(16))[:, None])
    with pytest.raises(UserError, match="two latents"):
        view(Linear(3)).manifold(4)


def test_samples_are_keyed_by_index_and_under_the_labels_of_the_data():
    shown = view(seed=3).samples(6)
    torch.testing.assert_close(shown[:4], view(seed=3).samples(4))
    assert not torch.equal(shown, view(seed=4).samples(6))
    off = Linear()
    off.w = torch.zeros(20, 2)
    torch.testing.assert_close(view(off).samples(6), (2.0 * Y[:6])[:, None, None, None, None].expand(6, 1, *SHAPE))


def test_a_row_of_temperatures_is_one_draw_of_latents():
    class Unlabelled(Linear):
        def decode(self, z, y=None):
            return super().expected(z, torch.zeros(len(z)))

    found = view(Unlabelled(5, Scaled(0.7, offset=3.0)), seed=2)
    shown = found.temperatures(9, [0.0, 0.5, 0.7, 1.0])
    assert shown.shape == (9, 4, *SHAPE)
    assert (shown[:, 0] == 3).all()  # the most typical, the same in every row; the sampler's other settings stay
    torch.testing.assert_close(shown[:, 2:3], found.samples(9))
    torch.testing.assert_close(shown[:, 3:], view(Unlabelled(5, Scaled(1.0, offset=3.0)), seed=2).samples(9))
    torch.testing.assert_close(shown[:, 1] - 3, (shown[:, 3] - 3) / 2)
    assert (shown[:, 3].flatten(1).unsqueeze(1) != shown[:, 3].flatten(1)).any(2).sum() == 72  # no two rows alike
    assert found.model.sampler.temperature == 0.7


def test_without_a_temperature_of_the_sampler_there_is_no_such_sheet():
    model = Linear()
    for model.sampler in (None, object()):
        with pytest.raises(UserError, match="Linear has no sampler with a temperature"):
            view(model).temperatures(3, [0.5])


def test_imputations_fill_the_lower_half_in_several_ways():
    shown = view().imputations(4, 3)
    assert torch.equal(shown[:, 0], X[:4].long())
    assert (shown[:, 1:][..., :3, :] == X[:4, None, :, :3]).all() and (shown[:, 1, :, 3:] == -1).all()
    ways = shown[:, 2:, :, 3:]
    assert not torch.equal(ways[:, 0], ways[:, 1]) and not torch.equal(ways[0], ways[1])
    torch.testing.assert_close(shown[:2], view().imputations(2, 3))


@pytest.mark.parametrize("size", [1, 4])
def test_no_sheet_depends_on_the_batch(size):
    for draw in (
        lambda found: found.reconstructions(7),
        lambda found: found.interpolations(7, 5),
        lambda found: found.traversals(2, 3.0, 5),
        lambda found: found.manifold(3),
        lambda found: found.samples(7),
        lambda found: found.temperatures(7, [0.5, 1.0]),
        lambda found: found.imputations(7, 2),
    ):
        torch.testing.assert_close(draw(view(batch_size=size)), draw(view()))


def test_what_cannot_be_imputed_is_said():
    model = Linear()
    model.levels = None
    with pytest.raises(UserError, match="no images"):
        view(model).imputations(3, 2)

    class Mute(LatentVariables):
        latents = 2
        encode, expected = Linear.encode, Linear.expected
        decode, w = Linear.decode, Linear().w

    with pytest.raises(UserError, match="Mute cannot fill holes"):
        view(Mute()).imputations(3, 2)


def test_a_sheet_has_pairs_in_whole_and_points_in_panels(tmp_path):
    for num in range(1, 40):
        columns = pair_columns(num)
        assert columns % 2 == 0 and columns / 2 - 1 <= (num / 2) ** 0.5 <= columns / 2 + 1
    save_sheet(torch.zeros(6, 2, 1, 32, 32), 2, tmp_path / "images.png", 4)
    save_sheet(torch.rand(6, 3, 2), None, tmp_path / "points.png")
    with Image.open(tmp_path / "images.png") as images, Image.open(tmp_path / "points.png") as points:
        assert images.size == (4 * 34 + 2, 3 * 34 + 2) and points.width > 2 * points.height
    with pytest.raises(UserError, match="have no picture"):
        save_sheet(torch.zeros(6, 2, 5), None, tmp_path / "vectors.png")
