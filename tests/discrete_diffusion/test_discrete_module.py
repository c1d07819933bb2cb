"""DiscreteDiffusion as a GenerativeModule: its contract, its conditions, and what it refuses."""

import copy
import math

import pytest
import torch
from torch import nn

from lightning_gen.discrete_diffusion import (
    Absorbing,
    Ancestral,
    AnyOrder,
    Bound,
    ClassifierFree,
    Confidence,
    Cosine,
    DiscreteDiffusion,
    DiscretizedGaussian,
    DiscretizedLogistic,
    Infilling,
    Linear,
    OrderedAbsorbing,
    Ordinal,
    Uniform,
    VariationalBound,
)
from lightning_gen.errors import IncompatibleAxes, UserError
from lightning_gen.networks import ClassEmbedding, LinearConditioner
from lightning_gen.random_source import GeneratorSource, IndexedSource, LossDraws

SHAPE, LEVELS, CLASSES = (2, 3, 4), 5, 3
DIMS = math.prod(SHAPE)
X = torch.randint(LEVELS, (12, *SHAPE), generator=torch.Generator().manual_seed(5)).to(torch.uint8)
Y = torch.arange(12) % CLASSES
HALF = torch.arange(4) < 2
KINDS = {
    "masked": {"process": Absorbing},
    "absorbing": {"process": Absorbing, "steps": 12, "objective": Bound(0.1)},
    "uniform": {"process": Uniform, "schedule": Cosine(), "steps": 12},
    "gaussian": {
        "process": DiscretizedGaussian,
        "schedule": Linear(),
        "steps": 12,
        "encoding": Ordinal(),
        "head": DiscretizedLogistic(),
    },
    "ordered": {"process": OrderedAbsorbing},
}


class Small(nn.Module):
    """Two convolutions, images' or sequences', that the noise level and the condition move; it keeps what it was told."""

    def __init__(self, shape, out_channels, cond_dim):
        super().__init__()
        convolution = nn.Conv2d if len(shape) == 3 else nn.Conv1d
        self.first = convolution(shape[0], 16, 3, padding=1)
        self.told = nn.Linear(1 + (cond_dim or 0), 16)
        self.last = convolution(16, out_channels, 3, padding=1)
        self.given = []

    def forward(self, x, logsnr, cond=None):
        if not torch.compiler.is_compiling():
            self.given.append((logsnr.detach(), None if cond is None else cond.detach()))
        told = logsnr[:, None].to(self.told.weight.dtype) / 10
        told = self.told(told if cond is None else torch.cat([told, cond], 1))
        return self.last(torch.tanh(2 * self.first(x) + told.reshape(*told.shape, *[1] * (x.ndim - 2))))


@pytest.fixture
def made():
    """made(kind, shape, levels, num_classes, **kwargs): a small random model, always of the same weights."""

    def function(kind="masked", shape=SHAPE, levels=LEVELS, num_classes=CLASSES, **kwargs) -> DiscreteDiffusion:
        torch.manual_seed(0)
        given = {"network": Small, "sampler": Ancestral(8), **KINDS[kind], **kwargs}
        module = DiscreteDiffusion(shape, levels, num_classes, **{**given, "process": given["process"]()})
        module.configure_model()
        return module.eval()

    return function


def embedding(num_classes):
    return ClassEmbedding(num_classes, 4)


def rows(num=12, start=0, seed=0):
    return IndexedSource(seed, range(start, start + num))


def whole(num=12, seed=0):
    """The draws of a loss of a whole batch, which others can repeat."""
    return LossDraws(torch.arange(num), num, GeneratorSource(seed), rows(num, seed=seed))


def loss(module, x=X, y=None, draws=None):
    with module.drawing(draws or whole(len(x))):
        return {name: part.mean() for name, part in module.training_loss(x, y).items()}


# ---- likelihoods and samples --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_and_terms(kind, made):
    found = made(kind).log_likelihood(X, draws=2)
    assert (found.kind, found.num_dims) == ("elbo", DIMS)
    assert list(found.terms) == ["prior", "diffusion", "reconstruction"]
    torch.testing.assert_close(sum(found.terms.values()), found.log_prob)
    for term in found.terms.values():
        assert term.shape == (12,) and term.dtype == torch.float64 and not term.requires_grad and (term < 1e-9).all()
    exact = made("ordered").log_likelihood(X, estimator=VariationalBound(exact=True))
    assert exact.kind == "exact" and not exact.terms["prior"].any()


def test_the_bound_is_the_modules_unless_another_is_given(made):
    module = made("ordered", bound=VariationalBound(exact=True))
    assert module.log_likelihood(X).kind == "exact"
    assert module.log_likelihood(X, estimator=VariationalBound()).kind == "elbo"


@pytest.mark.parametrize("kind", KINDS)
def test_no_report_depends_on_the_batch(kind, made):
    module = made(kind, conditioner=embedding)
    together = module.log_likelihood(X, Y, draws=2, rng=rows()).log_prob
    part = module.log_likelihood(X[5:], Y[5:], draws=2, rng=rows(7, 5)).log_prob
    torch.testing.assert_close(together[5:], part, rtol=1e-5, atol=0)
    assert torch.equal(module.sample(12, Y, rng=rows())[5:], module.sample(7, Y[5:], rng=rows(7, 5)))
    assert torch.equal(module.sample(12, rng=rows())[5:], module.sample(7, rng=rows(7, 5)))  # labels and all
    films = module.film(12, 4, Y, rng=rows())
    assert torch.equal(films[5:], module.film(7, 4, Y[5:], rng=rows(7, 5)))
    assert torch.equal(films[:, -1], module.sample(12, Y, rng=rows()).long())
    half = torch.arange(2)[:, None, None] < 1
    filled = module.impute(X, half, Y, rng=rows())
    assert torch.equal(filled[5:], module.impute(X[5:], half, Y[5:], rng=rows(7, 5)))
    assert torch.equal(filled[:, :1], X[:, :1]) and not torch.equal(filled, X)


@pytest.mark.usefixtures("global_state")
def test_nothing_but_training_draws_from_the_global_state(made):
    state = torch.get_rng_state()
    module = made(conditioner=embedding)
    torch.set_rng_state(state)
    reports = {
        "sample": lambda rng=None: module.sample(12, rng=rng),
        "likelihood": lambda rng=None: module.log_likelihood(X, Y, rng=rng).log_prob,
        "film": lambda rng=None: module.film(12, 5, rng=rng),
        "filling": lambda rng=None: module.impute(X, HALF, Y, rng=rng),
        "loss": lambda rng=None: loss(module, X, Y, draws=whole(seed=0 if rng is None else 1))["loss"],
    }
    for name, report in reports.items():
        assert torch.equal(report(), report()), name
        assert not torch.equal(report(), report(rows(seed=1))), name


@pytest.mark.parametrize(
    ("shape", "levels", "dtype"),
    [((7,), 256, torch.uint8), ((7,), 300, torch.int64), ((1, 4, 4), 300, torch.int64), ((1, 4, 4), 2, torch.uint8)],
)
def test_samples_are_data(shape, levels, dtype, made):
    """As are imputations; films are int64, for their masks."""
    module = made(shape=shape, levels=levels, timeless=True)
    x = module.sample(6)
    assert x.shape == (6, *shape) and x.dtype == dtype and levels / 2 <= int(x.max()) < levels
    module.check_data(x)
    assert module.log_likelihood(x).num_dims == math.prod(shape)
    film = module.film(6, 5)
    assert film.shape == (6, 5, *shape) and film.dtype == torch.int64 and (film[:, 0] == -1).all()
    filled = module.impute(x.flip(0), torch.zeros(shape, dtype=torch.bool))
    assert filled.dtype == dtype and filled.shape == x.shape
    module.check_data(filled)


def test_the_chain_is_sampled_whole_unless_it_is_long(made):
    """By default, and holes are filled by the model's sampler."""
    for kind, shape, steps in (
        ("masked", SHAPE, 100),
        ("absorbing", SHAPE, 12),
        ("ordered", SHAPE, DIMS),
        ("ordered", (130,), 130),  # one at a time, however many
    ):
        module = made(kind, shape, sampler=None, imputer=Infilling(resamplings=3))
        assert type(module.sampler) is Ancestral and module.sampler.steps == steps
        assert module.imputer.sampler is module.sampler and module.imputer.resamplings == 3
    module = made(imputer=Infilling(AnyOrder()))
    assert torch.equal(module.impute(X, HALF), made().impute(X, HALF, imputer=Infilling(AnyOrder())))


def test_one_process_may_be_given_to_two_models():
    process = Absorbing()
    first, second = (DiscreteDiffusion(shape, levels, None, Small, process) for shape, levels in (((7,), 4), ((5,), 2)))
    for module, shape, levels in ((first, (7,), 4), (second, (5,), 2)):
        module.configure_model()
        assert module.sample(3).shape == (3, *shape) and module.process.mask == levels


def test_films_of_other_noise_have_no_masks(made):
    for kind in ("uniform", "gaussian"):
        film = made(kind).film(6, 5)
        assert film.min() == 0 and film.max() == LEVELS - 1


# ---- what training minimises ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["masked", "absorbing"])
def test_times_are_strata_of_the_global_batch(kind, made):
    """Whatever rank or micro-batch has which of its rows: of twelve examples one is at each step of a chain of twelve."""
    module = made(kind)
    loss(module)
    at_once = module.network.given.pop()[0]
    if kind == "absorbing":
        steps = torch.arange(1, 13, dtype=torch.float64) / 12
        assert torch.equal(at_once.sort(descending=True).values, module.process.logsnr(steps))
    strata = (torch.sigmoid(-at_once.double()) * 12 - 1e-4).floor()
    assert sorted(strata.tolist()) == list(range(12))
    for share in (torch.tensor([0, 3, 7, 8, 11]), torch.tensor([10, 2])):
        found = set()
        for seed in (8, 9):  # noise is its own
            draws = LossDraws(share, 12, GeneratorSource(0), GeneratorSource(seed))
            found.add(loss(module, X[share], draws=draws)["loss"].item())
            assert torch.equal(module.network.given.pop()[0], at_once[share])
        assert len(found) == 2


def test_the_loss_is_what_the_likelihood_loses(made):
    """Of an ordered process nothing is left to chance: D examples of one datum are at each of its D steps."""
    module = made("ordered")
    same = X[:1].expand(DIMS, *SHAPE)
    expected = module.log_likelihood(X[:1], estimator=VariationalBound(exact=True)).log_prob.item()
    parts = loss(module, same)
    assert parts.keys() == {"loss"} and parts["loss"].item() == pytest.approx(-expected / DIMS, rel=1e-5)


def test_the_parts_of_the_loss_add_up(made):
    module = made("absorbing")
    parts = loss(module)
    assert parts.keys() == {"loss", "bound", "cross_entropy"} and all(value > 0 for value in parts.values())
    torch.testing.assert_close(parts["bound"] + parts["cross_entropy"], parts["loss"])
    reported = module.log_likelihood(X).log_prob
    module.objective = Bound()
    assert loss(module)["loss"].item() == parts["bound"].item()
    assert torch.equal(module.log_likelihood(X).log_prob, reported)  # which knows nothing of the weight
    parts["loss"].backward()
    assert all(p.grad is not None and p.grad.any() for p in module.parameters())


@pytest.mark.parametrize("kind", ["masked", "absorbing", "uniform", "ordered"])
def test_what_is_known_costs_nothing_and_what_is_not_its_levels(kind, made):
    """All data are 3: a network that says so loses what the prior does, one that says nothing log L of each component."""
    module, x = (
        made(kind, steps=KINDS[kind].get("steps"), num_classes=None),
        torch.full((12, *SHAPE), 3).to(torch.uint8),
    )
    nn.init.zeros_(module.network.last.weight)
    module.network.last.bias.data = torch.zeros(LEVELS)[None].repeat(2, 1)
    module.network.last.bias.data[:, 3] = 60.0
    module.network.last.bias.data = module.network.last.bias.data.flatten()
    found = module.log_likelihood(x)
    assert loss(module, x)["loss"].item() == pytest.approx(0, abs=1e-5)
    torch.testing.assert_close(found.log_prob, found.terms["prior"], rtol=0, atol=1e-4)
    assert found.log_prob.min() > -1.0 and (module.sample(5) == 3).all()
    nn.init.zeros_(module.network.last.bias)
    if kind == "uniform":
        assert module.log_likelihood(x, draws=100).bits_per_dim().mean().item() > 0.95 * math.log2(LEVELS)
    else:
        found = module.log_likelihood(x, draws=100).bits_per_dim().mean().item()
        assert found == pytest.approx(math.log2(LEVELS), rel=1e-5 if kind == "ordered" else 0.05)


# ---- conditions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dropout", [0.0, 0.4])
def test_labels_are_dropped_in_training(dropout, made):
    """As often as asked, in other rows at other steps, and the network is given the null condition there."""
    module = made(conditioner=embedding, label_dropout=dropout)
    x, y = X.repeat(50, 1, 1, 1), Y.repeat(50)
    null, told = module.conditioner.null(600), module.conditioner(y)
    dropped = []
    for seed in (0, 1):
        loss(module, x, y, draws=whole(600, seed))
        cond = module.network.given.pop()[1]
        dropped.append((cond == null).all(1))
        assert torch.equal(cond[~dropped[-1]], told[~dropped[-1]])
    assert dropped[0].double().mean().item() == pytest.approx(dropout, abs=0.1 if dropout else 0)
    assert torch.equal(*dropped) == (dropout == 0)


def test_y_matters_to_a_conditional_model_alone(made):
    """Without y holes are filled under the null condition, as in Gaussian diffusion; labels of samples are drawn."""
    free, told = made(), made(conditioner=embedding)
    assert torch.equal(free.log_likelihood(X, Y).log_prob, free.log_likelihood(X).log_prob)
    assert torch.equal(free.sample(12, Y), free.sample(12))
    assert torch.equal(free.impute(X, HALF, Y), free.impute(X, HALF))
    reports = {
        "likelihood": lambda module, y=None: module.log_likelihood(X, y).log_prob,
        "filling": lambda module, y=None: module.impute(X, HALF, y),
    }
    null = copy.deepcopy(told)
    nn.init.zeros_(null.conditioner.embedding.weight)
    null.conditioner.embedding.weight.data += told.conditioner.null(1)
    for name, report in reports.items():
        assert not torch.equal(report(told, Y), report(told, (Y + 1) % CLASSES)), name
    filling = reports["filling"]
    assert not torch.equal(filling(told, Y), filling(told)) and torch.equal(filling(told), filling(null, Y))
    assert torch.equal(told.sample(12), told.sample(12, told.drawn_labels(12, rows())))
    assert not torch.equal(told.sample(12), null.sample(12))


def test_guidance_draws_towards_y(made):
    """Full guidance is the conditional model and none the unconditional one; more goes beyond."""
    module = made(conditioner=embedding)
    guided = [module.sample(12, Y, sampler=Ancestral(8, ClassifierFree(scale))) for scale in (0.0, 1.0, 9.0)]
    assert torch.equal(guided[1], module.sample(12, Y, sampler=Ancestral(8)))
    assert not torch.equal(guided[0], guided[1]) and not torch.equal(guided[1], guided[2])
    by_default = made(conditioner=embedding, sampler=Ancestral(8, ClassifierFree(9.0)))
    assert torch.equal(by_default.sample(12, Y), guided[2])
    filled = [model.impute(X, HALF, Y) for model in (module, by_default)]
    assert not torch.equal(*filled)
    with pytest.raises(UserError, match="condition y"):
        by_default.impute(X, HALF)


# ---- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"levels": None, "shape": (2,)}, "needs data with levels"),
        ({"kind": "uniform", "steps": None}, "Uniform has no limit in continuous time here: give steps"),
        ({"kind": "gaussian", "steps": None}, "DiscretizedGaussian has no limit in continuous time here: give steps"),
        ({"kind": "ordered", "steps": 12}, "24 components a step: leave out steps, or give 24"),
        ({"steps": 0}, "at least one step"),
        ({"kind": "uniform", "timeless": True}, "Uniform cannot be seen in x_t as masks can: leave out timeless"),
        ({"bound": VariationalBound(exact=True)}, "leave out exact, or give the model steps"),
        ({"kind": "absorbing", "sampler": Ancestral(13)}, "chain of 12 steps cannot be sampled in 13"),
        ({"kind": "uniform", "sampler": Confidence()}, "Confidence fills masks, and Uniform has none"),
        ({"kind": "gaussian", "sampler": AnyOrder()}, "AnyOrder fills masks, and DiscretizedGaussian has none"),
        ({"sampler": Ancestral(4, ClassifierFree())}, "give it a conditioner"),
        (
            {"sampler": Ancestral(4, ClassifierFree()), "conditioner": embedding, "label_dropout": 0.0},
            "label_dropout above 0",
        ),
        ({"label_dropout": 1.0}, r"label_dropout lies in \[0, 1\), got 1.0"),
        ({"conditioner": embedding, "num_classes": None}, "ClassEmbedding needs data with class labels"),
    ],
)
def test_what_has_no_meaning_is_refused_at_construction(given, reason, made):
    with pytest.raises(UserError, match=reason) as refused:
        made(**given)
    assert "\n" not in str(refused.value)


def test_what_does_not_suit_the_model_is_refused_when_it_is_given(made):
    chain, uniform, free = made("absorbing"), made("uniform"), made()
    with pytest.raises(UserError, match="leave out exact"):
        free.log_likelihood(X, estimator=VariationalBound(exact=True))
    for draw in (chain.sample, lambda num, sampler: chain.film(num, 4, sampler=sampler)):
        with pytest.raises(UserError, match="chain of 12 steps cannot be sampled in 13"):
            draw(4, sampler=Ancestral(13))
    with pytest.raises(UserError, match="give the sampler fewer steps"):
        chain.impute(X, HALF, imputer=Infilling(Ancestral(100)))
    with pytest.raises(UserError, match="come after it"):
        made("ordered").impute(X, HALF)
    for wrong in (Confidence(), AnyOrder()):
        with pytest.raises(UserError, match="one order alone"):
            made("ordered").sample(4, sampler=wrong)
    for wrong in (Confidence(), AnyOrder()):
        with pytest.raises(UserError, match="choose Ancestral"):
            uniform.sample(4, sampler=wrong)
        with pytest.raises(UserError, match="choose Ancestral"):
            uniform.impute(X, HALF, imputer=Infilling(wrong))
    guided = Ancestral(4, ClassifierFree())
    with pytest.raises(IncompatibleAxes, match="conditioner"):
        free.sample(4, sampler=guided)
    with pytest.raises(IncompatibleAxes, match="label_dropout"):
        made(conditioner=embedding, label_dropout=0.0).impute(X, HALF, Y, imputer=Infilling(guided))
    embedded = made(conditioner=lambda n: LinearConditioner(n, 6, 4), num_classes=None)
    assert embedded.sample(4).shape == (4, *SHAPE)  # under the null condition: no condition can be drawn
    with pytest.raises(UserError, match="condition y"):
        embedded.sample(4, sampler=guided)


def test_data_of_another_kind_are_refused(made):
    module = made()
    for report in (module.log_likelihood, lambda x: module.impute(x, torch.ones(1, dtype=torch.bool))):
        with pytest.raises(UserError, match="shape"):
            report(X[:, :, :2])
        with pytest.raises(UserError, match="from 0 to 4"):
            report(X + 1)
        with pytest.raises(UserError, match="from 0 to 4"):
            report(X.float())
