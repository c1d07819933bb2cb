"""The likelihood of a data set under any GenerativeModule, in parts, and what is reported of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch

from lightning_gen.errors import UserError
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.likelihood import Likelihood
from lightning_gen.random_source import IndexedSource
from lightning_gen.specs import overridden


def estimator_of(module: GenerativeModule, asked: str | dict[str, Any] | None, option: str) -> Any:
    """The module's own estimator with what is asked of it replaced; `option` of the command line asked.

    Raises:
        UserError: something is asked of a module that has none.
    """
    own = getattr(module, "bound", None)
    if own is None and asked is not None:
        raise UserError(f"{type(module).__name__} has no likelihood to estimate: leave out {option}")
    return overridden(own, asked)


def likelihood(
    module: GenerativeModule,
    examples: Any,
    indices: range,
    batch_size: int,
    seed: int,
    draws: int,
    *,
    estimator: Any | None = None,
    advance: Callable[[int], Any] = int,
) -> Iterator[Likelihood]:
    """The log-likelihood of the examples of these indices, batch by batch, on the CPU.

    The noise of example i is keyed by (seed, i), so that parts measured apart are those measured together and models
    are compared under the same noise.

    Args:
        examples: a split of a data module: `take(indices)` has `x` and `y`.
        draws: noise draws per example.
        estimator: of the family; the module's own by default.
        advance: called with the number of examples just finished.

    Raises:
        NoLikelihood: the family has none; raised when the first batch is asked for.
    """
    for start in range(0, len(indices), batch_size):
        part = indices[start : start + batch_size]
        index = torch.arange(part.start, part.stop)
        batch = examples.take(index)
        y = None if batch.y is None else batch.y.to(module.device)
        rng = IndexedSource(seed, index, module.device).fork("likelihood")
        with torch.no_grad():
            found = module.log_likelihood(batch.x.to(module.device), y, estimator=estimator, draws=draws, rng=rng)
        yield found.to("cpu")
        advance(len(part))


def likelihood_metrics(measured: Likelihood) -> dict[str, float]:
    """Means over the examples: nats, bits/dim where they are of integers, and the terms in nats; each with its `_se`.

    The standard error is over examples, whose noise is independent: it holds what the finite set and what the finite
    number of draws leave open. The second is not told apart: the draws of one example are stratified at one offset,
    from which no variance can be estimated.

    Raises:
        UserError: an example's likelihood is NaN or infinite; a mean would hide how many there are, or be one of them.
    """
    lost = (~torch.isfinite(measured.log_prob)).nonzero().flatten()
    if len(lost):
        raise UserError(
            f"the likelihood of {len(lost)} of {len(measured)} examples is NaN or infinite, the first of them number "
            f"{lost[0]}: evaluate an earlier checkpoint, or leave the likelihood out with --likelihood.draws 0"
        )
    name = "elbo_nats" if measured.kind.endswith("elbo") else "log_prob_nats"
    columns = {name: measured.log_prob, **{f"{term}_nats": value for term, value in measured.terms.items()}}
    if not measured.kind.startswith("density"):
        columns["bits_per_dim"] = measured.bits_per_dim()
    metrics = {}
    for key, column in columns.items():
        column = column.double()
        metrics[key] = float(column.mean())
        if len(column) > 1:
            metrics[f"{key}_se"] = float(column.std()) / math.sqrt(len(column))
    return metrics
