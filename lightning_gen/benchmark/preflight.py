"""Checks of a benchmark's cells and evaluations, before the first cell trains."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lightning_gen.benchmark.grid import Cell, Plan
from lightning_gen.benchmark.request import Request
from lightning_gen.comparison.metrics import LIKELIHOOD, named_metric
from lightning_gen.errors import UserError
from lightning_gen.processes import run_together


def check(request: Request, preload: str, here: bool) -> None:
    """Builds the cells that are not done and every way to measure, in a process of its own; nothing where all runs are done.

    Args:
        preload: module that the process is forked with.
        here: the cells are trained on this machine, so the reference of the evaluations is measured too, and cached.

    Raises:
        UserError: no cell can be built; the extractor cannot take the data's shape or count; likelihoods are to be ranked
            of diffusions whose schedules end at different log-SNR.
    """
    runs = request.plan.runs()
    cells = list({runs[place].cell.name: runs[place].cell for place in request.waiting()}.values())
    if cells:
        if here:
            print(f"checking {len(cells)} cells", flush=True)
        run_together(_check, {"plan": request.plan, "here": here, "cells": cells}, [{}], preload)


def _check(plan: Plan, here: bool, cells: Sequence[Cell] | None = None) -> None:
    """Builds the cells, all those of the plan by default; each data config's judge sees the first model of it."""
    from lightning_gen.evaluation.judge import Judge, logsnr_ends
    from lightning_gen.evaluation.ranks import pick_device
    from lightning_gen.launch.experiment import Built, UnseenData, built

    ends: dict[str, list[float]] = {}
    made: Built | None = None
    refused: UserError | None = None
    judged: list[Any] = []
    by_likelihood = plan.rank_by is not None and named_metric(plan.rank_by).of == LIKELIHOOD
    for cell in plan.cells() if cells is None or by_likelihood else cells:
        try:
            made = built(["--config", str(plan.experiment), *cell.arguments()])
        except UnseenData:
            if here:
                raise
            return  # the jobs may have the data where this machine has none
        except UserError as error:  # the others train all the same, and its own run fails with this line
            refused = refused or UserError(f"no cell can be built; {cell.name}: {error}")
            continue
        if found := logsnr_ends(made.module):
            ends[cell.name] = found["logsnr_ends"]
        if here and made.config["data"] not in judged:
            judged.append(made.config["data"])
            device = pick_device("cpu" if made.config["trainer"]["accelerator"] == "cpu" else "auto")
            judge = Judge(made.data, plan.evaluations()[0].protocol, device)
            failed = []
            for each in plan.evaluations():
                try:
                    judge.under(each.protocol).check(made.module)
                except UserError as error:  # the other evaluations are taken all the same
                    failed.append(error)
            if len(failed) == len(plan.evaluations()):
                raise failed[0]
    if made is None and refused is not None and (cells is None or len(cells) == len(plan.cells())):
        raise refused
    if by_likelihood:
        _refuse_different(ends)


def _refuse_different(ends: dict[str, list[float]]) -> None:
    """Raises UserError where two cells' schedules end at different log-SNR: their bounds measure different things."""
    for name, found in ends.items():
        first = next(iter(ends))
        if found != ends[first]:
            raise UserError(
                f"likelihoods are not ranked between schedules with different ends: log-SNR {ends[first]} in {first} and "
                f"{found} in {name}; give all cells one logsnr_min and logsnr_max, or rank by another metric"
            )
