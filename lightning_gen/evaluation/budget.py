"""Samplers that differ in what a step costs, at the same cost."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from lightning_gen.errors import UserError
from lightning_gen.specs import overridden, parameters


def within(sampler: Any, nfe: int) -> Any:
    """The sampler with as many `steps` as `nfe` network evaluations a sample buy.

    What steps cost, with a solver's stages, guidance and a last step of its own, is read off the sampler's own `nfe`,
    which must not fall as its `steps` rise.

    Raises:
        UserError: a sampler whose cost is not set by a number of steps, or of which not even one step can be had.
    """
    kind = "a model without a sampler" if sampler is None else type(sampler).__name__
    if getattr(sampler, "nfe", None) is None or "steps" not in parameters(type(sampler)):
        raise UserError(f"nfe: {kind} has no number of steps that would set what a sample costs; leave nfe out")
    steps = bisect_right(range(1, nfe + 1), nfe, key=lambda steps: overridden(sampler, {"steps": steps}).nfe)
    if steps == 0:
        least = overridden(sampler, {"steps": 1}).nfe
        raise UserError(
            f"nfe {nfe} buys no step of this {kind}, whose first costs {least} network evaluations: raise nfe"
        )
    return overridden(sampler, {"steps": steps})
