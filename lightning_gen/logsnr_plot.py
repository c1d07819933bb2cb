"""The one plot of losses over log-SNR, for one model's evaluation and for a table of many."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABOVE = 4.0
"""Times the median curve's peak at which the plot is cut: one bad model would flatten all others."""


class Loss(NamedTuple):
    """A model's loss per unit of log-SNR: `edges` [n + 1] of the bins ascending, `values` [n], NaN where there is none, and
    `area`, the loss in all; `errors` [n] are standard errors.
    """

    edges: Sequence[float]
    values: Sequence[float]
    area: float
    errors: Sequence[float] | None = None


def overlaid(losses: Mapping[str, Loss], unit: str) -> Figure:
    """The curves over each other, with bands of two standard errors. The axis is linear: areas are losses, and the
    legend states them. A curve that rises far above the others is cut off.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.8), dpi=130)
    axes = figure.subplots()
    for i, (label, (edges, values, area, errors)) in enumerate(losses.items()):
        look = {"color": f"C{i % 10}", "linestyle": ("-", "--", ":", "-.")[i // 10 % 4], "linewidth": 1.3}
        axes.stairs(values, edges, baseline=None, label=f"{label}  {area:.4g}", **look)
        if errors is not None:
            low, high = ([v + k * e for v, e in zip(values, errors)] for k in (-2, 2))
            axes.stairs(high, edges, baseline=low, color=look["color"], alpha=0.2, fill=True, linewidth=0)
    peaks = [max((value for value in loss.values if math.isfinite(value)), default=0.0) for loss in losses.values()]
    highest = min(max(peaks), ABOVE * median(peaks))
    axes.set_ylim(0, 1.05 * highest if highest > 0 else None)
    axes.set_xlabel("log-SNR (noise on the left, data on the right)")
    axes.set_ylabel(f"{unit} lost per unit of log-SNR")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, title=f"area, {unit}", loc="upper left", bbox_to_anchor=(1.01, 1.0))
    return figure
