"""How models are measured, as plain values: what two numbers must share to be compared."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Self

from lightning_gen.errors import UserError


@dataclass(frozen=True)
class Protocol:
    """How a model is measured. Two numbers compare when all of this is equal.

    Attributes:
        num_samples: generated samples; None for as many as the reference split has.
        reference: the split that samples are measured against and whose likelihood is taken.
        extractor: of features, {"class_path", "init_args"}; None for the data set's own.
        sampler: replaces fields of the model's sampler, {"init_args": {"steps": 20}}, or all of it with a "class_path".
        estimator: the same for the likelihood.
        draws: noise draws per example of the likelihood; 0 for no likelihood.
        batch_size: examples at a time; changes no result beyond rounding.
        seed: of all noise.
    """

    num_samples: int | None = None
    reference: str = "test"
    extractor: dict[str, Any] | None = None
    sampler: dict[str, Any] | None = None
    estimator: dict[str, Any] | None = None
    draws: int = 16
    batch_size: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.num_samples is not None and self.num_samples < 2) or self.batch_size < 1 or self.draws < 0:
            raise UserError(
                f"an evaluation needs at least 2 samples, a batch of 1 and no negative draws; got num_samples "
                f"{self.num_samples}, batch_size {self.batch_size}, draws {self.draws}"
            )

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """The protocol with these fields.

        Raises:
            UserError: for a field it has not; names those it has.
        """
        known = [field.name for field in fields(cls)]
        for key in values:
            if key not in known:
                raise UserError(f"an evaluation has no {key!r}, only {', '.join(known)}")
        return cls(**values)
