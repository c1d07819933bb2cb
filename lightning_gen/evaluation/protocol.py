"""How models are measured, as plain values: what two numbers must share to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import UnionType
from typing import Any, Self, get_args, get_origin, get_type_hints

from lightning_gen.errors import UserError
from lightning_gen.refusals import nearest


@dataclass(frozen=True)
class LikelihoodProtocol:
    """How a likelihood is taken.

    Attributes:
        draws: noise draws per example; 0 for no likelihood.
        estimator: replaces fields of the model's own, {"steps": 100}, or all of it: a class, or {"class_path": a class}.
    """

    draws: int = 16
    estimator: str | dict[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.draws < 0:
            raise UserError(f"--likelihood.draws must be at least 0, not {self.draws}")


@dataclass(frozen=True)
class Protocol:
    """How a model is measured. Two numbers compare when all of this is equal.

    Attributes:
        num_samples: generated samples; None for as many as the reference split has, 0 for none and no distance.
        reference: the split that samples are measured against and whose likelihood is taken.
        extractor: of features: a name, a class path, or {"class_path", "init_args"}; None for the data set's own.
        sampler: replaces fields of the model's sampler, {"steps": 20}, or all of it: a class, or {"class_path": a class}.
        likelihood: how the likelihood is taken.
        batch_size: examples at a time; changes no result beyond rounding.
        seed: of all noise.
        nfe: the sampler takes as many steps as this many network evaluations a sample buy; None for its own number.
    """

    num_samples: int | None = None
    reference: str = "test"
    extractor: str | dict[str, Any] | None = None
    sampler: str | dict[str, Any] | None = None
    likelihood: LikelihoodProtocol = field(default_factory=LikelihoodProtocol)
    batch_size: int = 256
    seed: int = 0
    nfe: int | None = None

    def __post_init__(self) -> None:
        if self.num_samples is not None and (self.num_samples < 0 or self.num_samples == 1):
            raise UserError(f"--num_samples must be at least 2, or 0 for a likelihood alone, not {self.num_samples}")
        if self.num_samples == 0 and self.likelihood.draws == 0:
            raise UserError("--num_samples 0 and --likelihood.draws 0 leave nothing to measure")
        if self.batch_size < 1:
            raise UserError(f"--batch_size must be at least 1, not {self.batch_size}")
        if self.nfe is not None and self.nfe < 1:
            raise UserError(f"--nfe must be at least 1, not {self.nfe}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The protocol with these fields, as a config writes them: {"sampler": {"steps": 5}} or {"sampler.steps": 5}.

        Raises:
            UserError: for a field it has not; names those it has. Or a value of another type.
        """
        values = changed(values)
        _refuse_unfit(cls, values, "an evaluation")
        if isinstance(values.get("likelihood"), Mapping):
            _refuse_unfit(LikelihoodProtocol, values["likelihood"], "an evaluation's likelihood")
            values["likelihood"] = LikelihoodProtocol(**values["likelihood"])
        return cls(**values)


def leaves(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{dotted key: value}. An object that is named whole, {"class_path", "init_args"}, is one value."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        dotted = ".".join(part for part in f"{prefix}.{key}".split(".") if part not in ("", "init_args"))
        if isinstance(value, Mapping) and "class_path" not in value:
            found.update(leaves(value, dotted))
        else:
            found[dotted] = value
    return found


def changed(values: Mapping[str, Any], *changes: Mapping[str, Any]) -> dict[str, Any]:
    """The fields `values` with `changes` set over them, nested. The later wins, and takes with it what lay below its key:
    {"sampler.solver": "Heun"} over {"sampler": {"solver": "DDIM", "solver.eta": 1}} leaves no eta.
    """
    whole: dict[str, Any] = {}
    for key, value in (leaf for each in (values, *changes) for leaf in leaves(each).items()):
        *path, last = key.split(".")
        place = whole
        for part in path:
            inside = place.get(part)
            place[part] = {"class_path": inside} if isinstance(inside, str) else dict(inside or {})
            place = place[part]
        place[last] = value
    return whole


def _refuse_unfit(kind: type, values: Mapping[str, Any], what: str) -> None:
    known = [each.name for each in fields(kind)]
    types = get_type_hints(kind)
    for key, value in values.items():
        if key not in known:
            raise UserError(f"{what} has no {key!r}{nearest(key, known)}: it has {', '.join(known)}")
        if not _is_of(value, types[key]):
            raise UserError(f"{what} cannot have {value!r} for its {key}")


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value as YAML reads it can stand for a field of this type, a dataclass being written as a mapping."""
    if isinstance(hint, UnionType):
        return any(_is_of(value, each) for each in get_args(hint))
    if hint is LikelihoodProtocol and isinstance(value, Mapping):
        return True
    return isinstance(value, get_origin(hint) or hint) and not isinstance(value, bool)
