"""How models are measured, as plain values: what two numbers must share to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

from lightning_gen.errors import UserError
from lightning_gen.refusals import nearest


@dataclass(frozen=True)
class LikelihoodProtocol:
    """How a likelihood is taken.

    Attributes:
        draws: noise draws per example; 0 for no likelihood.
        estimator: replaces fields of the model's own, {"steps": 100}, or all of it with a "class_path".
    """

    draws: int = 16
    estimator: dict[str, Any] | None = None

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
        sampler: replaces fields of the model's sampler, {"steps": 20}, or all of it with a "class_path".
        likelihood: how the likelihood is taken.
        batch_size: examples at a time; changes no result beyond rounding.
        seed: of all noise.
    """

    num_samples: int | None = None
    reference: str = "test"
    extractor: str | dict[str, Any] | None = None
    sampler: dict[str, Any] | None = None
    likelihood: LikelihoodProtocol = field(default_factory=LikelihoodProtocol)
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if self.num_samples is not None and (self.num_samples < 0 or self.num_samples == 1):
            raise UserError(f"--num_samples must be at least 2, or 0 for a likelihood alone, not {self.num_samples}")
        if self.num_samples == 0 and self.likelihood.draws == 0:
            raise UserError("--num_samples 0 and --likelihood.draws 0 leave nothing to measure")
        if self.batch_size < 1:
            raise UserError(f"--batch_size must be at least 1, not {self.batch_size}")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """The protocol with these fields, as a config writes them.

        Raises:
            UserError: for a field it has not; names those it has.
        """
        values = {**values}
        _refuse_unknown(cls, values, "an evaluation")
        if isinstance(values.get("likelihood"), Mapping):
            _refuse_unknown(LikelihoodProtocol, values["likelihood"], "an evaluation's likelihood")
            values["likelihood"] = LikelihoodProtocol(**values["likelihood"])
        return cls(**values)


def _refuse_unknown(kind: type, values: Mapping[str, Any], what: str) -> None:
    known = [each.name for each in fields(kind)]
    for key in values:
        if key not in known:
            raise UserError(f"{what} has no {key!r}{nearest(key, known)}: it has {', '.join(known)}")
