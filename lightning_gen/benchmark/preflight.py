"""Checks of a benchmark's cells and evaluations, before the first cell trains."""

from __future__ import annotations

from lightning_gen.benchmark.grid import Plan
from lightning_gen.benchmark.request import Request
from lightning_gen.comparison.metrics import LIKELIHOOD, named_metric
from lightning_gen.errors import UserError
from lightning_gen.processes import run_together


def check(request: Request, preload: str, here: bool) -> None:
    """Builds every cell and every way to measure, in a process of its own; nothing where all runs are done.

    Args:
        preload: module that the process is forked with.
        here: the cells are trained on this machine, so the reference of the evaluations is measured too, and cached.

    Raises:
        UserError: a cell cannot be built; the extractor cannot take the data's shape or count; likelihoods are to be ranked
            of diffusions whose schedules end at different log-SNR.
    """
    if request.waiting():
        if here:
            print(f"checking {len(request.plan.cells())} cells", flush=True)
        run_together(_check, {"plan": request.plan, "here": here}, [{}], preload)


def _check(plan: Plan, here: bool) -> None:
    from lightning_gen.evaluation.judge import Judge, logsnr_ends
    from lightning_gen.evaluation.ranks import pick_device
    from lightning_gen.launch.experiment import built

    ends: dict[str, list[float]] = {}
    for cell in plan.cells():
        try:
            made = built(["--config", str(plan.experiment), *cell.arguments()])
        except UserError as error:
            raise UserError(f"cell {cell.name}: {error}") from error
        if found := logsnr_ends(made.module):
            ends[cell.name] = found["logsnr_ends"]
    if plan.rank_by is not None and named_metric(plan.rank_by).of == LIKELIHOOD:
        _refuse_different(ends)
    if not here:
        return
    device = pick_device("cpu" if made.config["trainer"]["accelerator"] == "cpu" else "auto")
    judge = Judge(made.data, plan.evaluations()[0].protocol, device)
    for each in plan.evaluations():
        judge.under(each.protocol).check(made.module)


def _refuse_different(ends: dict[str, list[float]]) -> None:
    """Raises UserError where two cells' schedules end at different log-SNR: their bounds measure different things."""
    for name, found in ends.items():
        first = next(iter(ends))
        if found != ends[first]:
            raise UserError(
                f"likelihoods are not ranked between schedules with different ends: log-SNR {ends[first]} in {first} and "
                f"{found} in {name}; give all cells one logsnr_min and logsnr_max, or rank by another metric"
            )
