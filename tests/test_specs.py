import pytest
import torch

from datamodules.toy import Toy2D, TwoMoons
from lightning_gen.diffusion import (
    DDIM,
    AdaptiveSampler,
    Ancestral,
    ClassifierFree,
    Cosine,
    DiffusionSampler,
    GaussianDiffusion,
    LinearLogSNR,
    ProbabilityFlowLikelihood,
    UniformLogSNR,
    VariationalBound,
)
from lightning_gen.errors import UserError
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import ImportanceWeighted
from lightning_gen.specs import build, describe, overridden, parameters, resolve

SAMPLER = {
    "class_path": "lightning_gen.diffusion.DiffusionSampler",
    "init_args": {
        "solver": {"class_path": "lightning_gen.diffusion.DDIM", "init_args": {"eta": 0.5}},
        "steps": 7,
        "grid": {"class_path": "lightning_gen.diffusion.UniformLogSNR"},
    },
}


def test_nested_specs_become_objects():
    sampler = build(SAMPLER, DiffusionSampler)
    assert type(sampler) is DiffusionSampler and sampler.steps == 7 and sampler.guidance is None
    assert type(sampler.solver) is DDIM and sampler.solver.eta == 0.5 and type(sampler.grid) is UniformLogSNR


def test_given_arguments_complete_a_spec_and_win_and_the_spec_stays_as_it_was():
    spec = {"class_path": "datamodules.toy.TwoMoons", "init_args": {"num_train": 5, "batch_size": 3}}
    data = build(spec, Toy2D, batch_size=4)
    assert type(data) is TwoMoons and data.batch_size == 4 and data.sizes["train"] == 5
    assert spec == {"class_path": "datamodules.toy.TwoMoons", "init_args": {"num_train": 5, "batch_size": 3}}
    assert type(build({"class_path": "datamodules.toy.TwoMoons"}, Toy2D)) is TwoMoons


def test_a_model_is_built_from_primitives_with_its_network_as_a_factory():
    network = {"class_path": "lightning_gen.networks.mlp.MLP", "init_args": {"width": 4, "depth": 1}}
    spec = {"class_path": "lightning_gen.diffusion.GaussianDiffusion", "init_args": {"network": network}}
    model = build(spec, GenerativeModule, shape=[2], levels=None, num_classes=3)
    assert type(model) is GaussianDiffusion and model.shape == (2,) and model.num_classes == 3
    model.configure_model()
    assert sum(p.numel() for p in model.network.parameters()) > 0


@pytest.mark.parametrize(
    "spec",
    [
        {"class_path": "lightning_gen.nowhere.Nothing"},
        {"class_path": "lightning_gen.diffusion.DDIM"},
        {"class_path": "lightning_gen.diffusion.DiffusionSampler", "init_args": {"stepss": 3}},
        {"class_path": "lightning_gen.diffusion.DiffusionSampler", "init_args": {"steps": "many"}},
        {"class_path": "lightning_gen.diffusion.DiffusionSampler", "init_args": {"steps": 0}},
    ],
    ids=["no such class", "of another kind", "no such argument", "wrong type", "refused by the class"],
)
def test_specs_that_cannot_be_built_are_users_errors(spec):
    with pytest.raises(UserError) as error:
        build(spec, DiffusionSampler)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "thing",
    [Cosine(), LinearLogSNR(-5.0, 7.0), Ancestral(), DDIM(0.3),
     DiffusionSampler(DDIM(0.25), 9, UniformLogSNR(), ClassifierFree(2.0))],
    ids=lambda thing: type(thing).__name__,
)  # fmt: skip
def test_what_is_described_can_be_built_again(thing):
    spec = describe(thing)
    again = overridden(None, spec)
    assert type(again) is type(thing) and describe(again) == spec
    assert torch.tensor(list(numbers(spec))).isfinite().all()  # primitives all the way down


def numbers(spec):
    """The leaves of a description that are numbers; anything but primitives fails."""
    for value in spec.values() if isinstance(spec, dict) else [spec]:
        assert value is None or isinstance(value, (dict, str, bool, int, float))
        if isinstance(value, dict):
            yield from numbers(value)
        elif isinstance(value, (int, float)):
            yield float(value)


def test_an_override_replaces_the_named_fields_and_keeps_the_others():
    current = DiffusionSampler(DDIM(0.5), 50, UniformLogSNR())
    changed = overridden(current, {"init_args": {"steps": 3}})
    assert (changed.steps, changed.solver, changed.grid) == (3, current.solver, current.grid)
    assert current.steps == 50
    assert overridden(current, None) is current
    assert overridden(current, SAMPLER).steps == 7 and overridden(None, SAMPLER).solver.eta == 0.5
    with pytest.raises(UserError, match="DiffusionSampler has no 'stepps', only solver, steps, grid, guidance"):
        overridden(current, {"init_args": {"stepps": 3}})


def test_a_nested_spec_in_an_override_becomes_an_object():
    changed = overridden(DiffusionSampler(), {"init_args": {"solver": SAMPLER["init_args"]["solver"]}})
    assert type(changed.solver) is DDIM and changed.solver.eta == 0.5


@pytest.mark.parametrize(
    "spec",
    [
        {"solver.eta": 1.0, "steps": 3},
        {"solver": {"eta": 1.0}, "init_args.steps": 3},
        {"init_args": {"solver": {"eta": 1.0}, "steps": 3}},
        {"solver": "DDIM", "solver.eta": 1.0, "steps": 3},
        {"solver.eta": 1.0, "solver": "lightning_gen.diffusion.DDIM", "steps": 3},
        {"solver.class_path": "DDIM", "solver.init_args.eta": 1.0, "steps": 3},
        {"solver.class_path": "DDIM", "solver": {"eta": 1.0}, "steps": 3},
        {"solver": {"class_path": "DDIM", "eta": 1.0}, "steps": 3},
    ],
)
def test_parts_of_parts_are_overridden_as_a_command_line_writes_them(spec):
    current = DiffusionSampler(DDIM(0.5), 50, UniformLogSNR(), ClassifierFree(2.0))
    changed = overridden(current, spec)
    assert type(changed.solver) is DDIM and changed.solver.eta == 1.0 and changed.steps == 3
    assert (changed.grid, changed.guidance) == (current.grid, current.guidance)
    assert current.solver.eta == 0.5


@pytest.mark.parametrize(
    ("current", "spec", "kind", "fields"),
    [
        (DiffusionSampler(steps=9), "AdaptiveSampler", AdaptiveSampler, {}),
        (DiffusionSampler(steps=9), {"class_path": "AdaptiveSampler", "rtol": 0.5}, AdaptiveSampler, {"rtol": 0.5}),
        (AdaptiveSampler(), {"class_path": "DiffusionSampler", "steps": 20}, DiffusionSampler, {"steps": 20}),
        (VariationalBound(), "ProbabilityFlowLikelihood", ProbabilityFlowLikelihood, {}),
        (ImportanceWeighted(5), {"class_path": "ImportanceWeighted", "samples": 7}, ImportanceWeighted, {"samples": 7}),
        (None, "lightning_gen.diffusion.AdaptiveSampler", AdaptiveSampler, {}),
    ],
)
def test_the_whole_may_be_named_in_short_as_its_parts_are(current, spec, kind, fields):
    made = overridden(current, spec)
    assert type(made) is kind and {key: getattr(made, key) for key in fields} == fields


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("AdaptivSampler", r"^there is no class 'AdaptivSampler', did you mean AdaptiveSampler\?$"),
        ("DDIM", r"^there is no class 'DDIM' below Sampler, only AdaptiveSampler, DiffusionSampler"),
        ("lightning_gen.diffusion.DDIM", r"lightning_gen\.diffusion\.DDIM is not a Sampler$"),
        ("lightning_gen.diffusion.Sampler", "Sampler is abstract: name one of AdaptiveSampler, DiffusionSampler"),
        ({"class_path": "AdaptiveSampler", "rtoll": 1}, r"'rtoll', did you mean rtol\?$"),
        ({"solver": "DPMsolver"}, r"^solver: there is no class 'DPMsolver', did you mean DPMSolverPP\?$"),
        ({"solver": "PredictorCorrector", "solver.predictor": "DDDIM"}, r"^solver\.predictor: .*did you mean DDIM\?$"),
        ({"solver": "lightning_gen.diffusion.UniformTime"}, r"^solver: lightning_gen.diffusion.UniformTime is not a Solver$"),
        ({"solver": "DDIM", "solver.etaa": 1}, r"'solver\.etaa', did you mean solver\.eta\?$"),
        ({"steps": "many"}, "^steps must be of type int, not 'many'$"),
        ({"guidance": "Needy"}, r"^Needy needs run: give guidance\.run$"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_override_is_said_in_one_line(spec, said):
    with pytest.raises(UserError, match=said):
        overridden(DiffusionSampler(), spec)


class Needy(ClassifierFree):
    def __init__(self, run: str) -> None:
        super().__init__(1.0)
        self.run = run


def test_a_bare_name_that_could_be_anything_is_asked_for_its_path():
    with pytest.raises(UserError, match=r"'Thing': give its whole path, PACKAGE\.Thing"):
        overridden(None, "Thing")


def test_a_part_that_is_not_there_must_be_named():
    with pytest.raises(UserError, match="name its class, guidance=CLASS"):
        overridden(DiffusionSampler(), {"guidance.scale": 2.0})
    assert overridden(DiffusionSampler(DDIM(0.5)), {"solver": None, "solver.eta": 1.0}).solver.eta == 1.0
    assert overridden(DiffusionSampler(), {"guidance": "ClassifierFree", "guidance.scale": 2.0}).guidance.scale == 2.0


@pytest.mark.parametrize(
    "spec",
    [{}, {"class_path": "lightning_gen.diffusion.Nothing"},
     {"init_args": {"steps": "many"}}, {"init_args": {"steps": 0}},
     {"init_args": {"solver": {"class_path": "lightning_gen.diffusion.UniformLogSNR"}}}],
)  # fmt: skip
def test_overrides_that_cannot_be_built_are_users_errors(spec):
    with pytest.raises(UserError):
        overridden(DiffusionSampler() if spec else None, spec)


def test_paths_are_resolved_and_wrong_ones_are_users_errors():
    assert resolve("lightning_gen.diffusion.schedules.Cosine") is Cosine
    for path in ("lightning_gen.diffusion.Nothing", "no_such_package.Thing", "bare", "", "lightning_gen..Cosine"):
        with pytest.raises(UserError, match="cannot import"):
            resolve(path)


def test_a_class_is_named_by_its_package():
    """Settings that are compared must not depend on the file a class stands in."""
    assert describe(DDIM())["class_path"] == "lightning_gen.diffusion.DDIM"
    assert describe(Fixture())["class_path"] == f"{__name__}.Fixture"


class Fixture:
    """Of no package that exports it."""


def test_parameters_are_those_of_the_constructor():
    assert parameters(DiffusionSampler) == ["solver", "steps", "grid", "guidance", "denoise", "threshold"]
    assert parameters(Toy2D) == ["num_train", "num_val", "num_test", "data_seed"]
