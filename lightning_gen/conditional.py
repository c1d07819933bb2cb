"""What families share that may be conditional: a conditioner, made once the data are known, and labels that nobody gave."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lightning_gen.errors import UserError
from lightning_gen.random_source import RandomSource


class Conditional:
    """Part of a GenerativeModule, which sets `conditioner_factory` and `conditioner` = None at construction.

    Attributes:
        conditioner_factory: makes from num_classes what turns y into the networks' `cond`; None for an unconditional model.
        conditioner: what it made.
    """

    conditioner_factory: Callable[[int | None], nn.Module] | None
    conditioner: nn.Module | None
    num_classes: int | None

    @property
    def conditional(self) -> bool:
        """Whether y matters."""
        return self.conditioner_factory is not None

    def build_conditioner(self) -> int | None:
        """Makes it; the features of the condition, None where there is none."""
        if self.conditioner_factory is None:
            return None
        self.conditioner = self.conditioner_factory(self.num_classes)
        return self.conditioner.dim

    def condition(self, y: Tensor | None) -> Tensor | None:
        """The networks' `cond` of y; None for an unconditional model.

        Raises:
            UserError: a conditional model, and no y.
        """
        if self.conditioner is None:
            return None
        if y is None:
            raise UserError("this model is conditional: give y")
        return self.conditioner(y)

    def drawn_labels(self, num: int, rng: RandomSource) -> Tensor | None:
        """Labels [num] for samples, uniform; None of data without classes."""
        return None if self.num_classes is None else rng.fork("labels").integers(self.num_classes, (num,))
