"""What families share that may be conditional: a conditioner, made once the data are known, and labels that nobody gave."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lightning_gen.errors import IncompatibleAxes, UserError
from lightning_gen.networks.factory import CONDITIONER, made
from lightning_gen.random_source import RandomSource


class ClassifierFreeScale:
    """Part of a classifier-free guidance, which sets `scale`: what it costs, and which models it is for.

    Attributes:
        scale: 0 is unconditional, 1 conditional.
    """

    scale: float

    @property
    def evaluations(self) -> int:
        """Networks that a guided evaluation asks, at most."""
        return 1 if self.scale in (0.0, 1.0) else 2

    def check(self, conditional: bool, label_dropout: float) -> None:
        """Raises IncompatibleAxes where a model, conditional or not, trained with that dropout, cannot be guided so."""
        if not conditional:
            raise IncompatibleAxes("classifier-free guidance needs a conditional model: give it a conditioner")
        if label_dropout == 0.0:
            raise IncompatibleAxes("classifier-free guidance needs a model trained with label_dropout above 0")


def check_label_dropout(share: float) -> None:
    """Raises UserError for a share of examples whose condition is dropped that is none."""
    if not 0.0 <= share < 1.0:
        raise UserError(f"label_dropout lies in [0, 1), got {share}")


def condition_or_null(
    conditioner: nn.Module | None, y: Tensor | None, like: Tensor, drop: Tensor | None = None
) -> Tensor | None:
    """A network's `cond` for a batch `like` [B, ...]: of y, rows where `drop`, bool [B], is true replaced by the null
    condition; the null condition without y; None without a conditioner."""
    if conditioner is None:
        return None
    return conditioner(y, drop) if y is not None else conditioner.null(len(like), like.device)


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
        self.conditioner = made(self.conditioner_factory, self.num_classes, key="conditioner", like=CONDITIONER)
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

    def given_or_drawn(self, y: Tensor | None, num: int, rng: RandomSource) -> Tensor | None:
        """y itself, or where a conditional model is given none `drawn_labels`."""
        return self.drawn_labels(num, rng) if self.conditional and y is None else y

    def drawn_labels(self, num: int, rng: RandomSource) -> Tensor | None:
        """Labels [num] for samples, uniform; None of data without classes."""
        return None if self.num_classes is None else rng.fork("labels").integers(self.num_classes, (num,))
