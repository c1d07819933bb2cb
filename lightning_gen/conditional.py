"""What families share that may be conditional: a conditioner, made once the data are known, and labels that nobody gave."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from lightning_gen.domains import check_labels
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
    condition; the null condition without y; None without a conditioner.

    Raises:
        UserError: rows of y to drop, and no y, which would train the null condition alone.
    """
    if conditioner is None:
        return None
    if y is None and drop is not None:
        raise UserError("this model is conditional: give y")
    return conditioner(y, drop) if y is not None else conditioner.null(len(like), like.device)


def check_conditions(y: Tensor, num: int, num_classes: int | None) -> None:
    """Raises UserError unless y has a condition for each of `num` examples: labels of the classes, or embeddings [num, ...].

    Reads labels from their device.
    """
    if not isinstance(y, Tensor):
        raise UserError(f"y is a tensor of conditions, not {type(y).__name__}")
    if y.ndim == 0 or len(y) != num:
        raise UserError(f"y has a condition for each of the {num} examples, got {len(y) if y.ndim else 'a number'}")
    if num_classes is not None and (y.ndim == 1 or not y.is_floating_point()):
        check_labels(y, num_classes)


class Conditional:
    """Part of a GenerativeModule, which sets `conditioner_factory` and `conditioner` = None at construction.

    Without y a conditional model is the mixture of its labels, each as probable as the others: `sample` draws a label for each
    example. Nothing else stands for that mixture, so `log_likelihood` needs y (the density verb averages over labels), and
    what fills holes or denoises takes the null condition, the model's own estimate of it, if `label_dropout` has trained one.

    Attributes:
        conditioner_factory: makes from num_classes what turns y into the networks' `cond`; None for an unconditional model.
        conditioner: what it made.
    """

    conditioner_factory: Callable[[int | None], nn.Module] | None
    conditioner: nn.Module | None
    num_classes: int | None
    label_dropout: float = 0.0

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

    def given(self, y: Tensor | None, num: int, *, null: bool = False, needed: bool = False) -> Tensor | None:
        """y for `num` examples, checked; None for an unconditional model, or for the null condition.

        Args:
            null: take the null condition where there is no y.
            needed: something else than the model, a classifier that guides it, takes y too.

        Raises:
            UserError: no conditions of those examples; no y, and no null condition was trained or may be taken.
        """
        if not (self.conditional or needed):
            return None
        if y is not None:
            check_conditions(y, num, self.num_classes)
        elif self.conditional and not null:
            raise UserError("this model is conditional: give y")
        elif self.conditional and not self.label_dropout:
            raise UserError("this model is conditional and was trained with label_dropout 0, never without y: give y")
        return y

    def given_or_drawn(self, y: Tensor | None, num: int, rng: RandomSource, *, needed: bool = False) -> Tensor | None:
        """y as `given` has it, or where there is none `drawn_labels`; of data without classes the null condition."""
        if y is None and (self.conditional or needed):
            y = self.drawn_labels(num, rng)
        return self.given(y, num, null=True, needed=needed)

    def drawn_labels(self, num: int, rng: RandomSource) -> Tensor | None:
        """Labels [num] for samples, uniform; None of data without classes."""
        return None if self.num_classes is None else rng.fork("labels").integers(self.num_classes, (num,))
