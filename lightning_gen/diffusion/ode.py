"""An adaptive Runge-Kutta integrator that treats every example of a batch as if it were alone.

One step size and one error for a whole batch, as elsewhere, make the result of an example depend on its neighbours, and
with it on the batch size and on the number of ranks. Here each example has its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from lightning_gen.errors import UserError

State = tuple[Tensor, ...]
"""Parts [B, ...] of one dtype that move together. The error of each is controlled on its own."""


class Field(Protocol):
    """dstate/dtime of some examples."""

    def __call__(self, rows: Tensor, time: Tensor, state: State) -> State:
        """Of the examples `rows` [A] (int64, among the batch) at `time` [A], from their state's parts [A, ...]."""


class TooManyEvaluations(UserError):
    """An example has not come to the end."""


class Solution(NamedTuple):
    """What an integration gives.

    Attributes:
        states: the state's parts at each time, [S, B, ...] each; nan from where an example's field is not finite.
        evaluations: of the field, for each example, int64 [B].
    """

    states: State
    evaluations: Tensor


# Dormand & Prince 1980, in the notation of Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, II.5
_NODES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
)
_FIFTH = (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)  # of fifth less fourth order
_DENSE = (
    -12715105075 / 11282082432,
    0.0,
    87487479700 / 32700410799,
    -10690763975 / 1880347072,
    701980252875 / 199316789632,
    -1453857185 / 822651844,
    69997945 / 29380423,
)

_SAFETY, _SMALLEST, _LARGEST, _MEMORY = 0.9, 0.2, 10.0, 0.04
"""Of the step size: Hairer's factors, and the exponent with which a PI controller remembers the last error."""


class DormandPrince:
    """Explicit Runge-Kutta of order 5 with an error estimate of order 4 and free interpolation (FSAL, dense output).

    A step of an example is taken if the root mean square of its error over atol + rtol |state| is at most 1, over the
    dimensions of each part by itself. Examples that have arrived are not evaluated any more.

    Args:
        rtol, atol: tolerated error of a step, relative and absolute.
        max_evaluations: of the field, for one example.
    """

    def __init__(self, rtol: float = 1e-5, atol: float = 1e-5, max_evaluations: int = 10_000) -> None:
        if not (0 < rtol < 1 and atol > 0):
            raise UserError(f"an adaptive solver needs 0 < rtol < 1 and atol > 0, got {rtol} and {atol}")
        if max_evaluations < 8:
            raise UserError(f"an adaptive solver needs max_evaluations of 8 or more, got {max_evaluations}")
        self.rtol, self.atol, self.max_evaluations = rtol, atol, max_evaluations

    def solve(self, field: Field, state: State, times: Sequence[float]) -> Solution:
        """The state at each of `times`, which rise or fall; `state` is that at the first. In the state's dtype.

        Times between the first and the last are interpolated: how many there are changes neither the steps nor the end.

        Raises:
            TooManyEvaluations: where the tolerance is not met in `max_evaluations`.
        """
        layout = _Layout.of(state)
        sign = 1.0 if times[-1] > times[0] else -1.0
        start = layout.join(state)
        visited = start.new_full((len(times), *start.shape), torch.nan)
        visited[0] = start
        stops = start.new_tensor(times[1:])[:, None]
        counts = torch.zeros(len(start), dtype=torch.int64, device=start.device)
        moving = self._begin(field, layout, start, times, sign)
        evaluations = 2  # of each that is moving: all try their steps in turn
        while len(moving.rows):
            left = times[-1] - moving.time
            final = moving.step.abs() >= left.abs()  # clipped, so that no example is carried past the end
            h = torch.where(final, left, moving.step)
            ahead = torch.where(final, times[-1], moving.time + h)
            slopes = self._stages(field, layout, moving, h, ahead)
            y = moving.y + h[:, None] * _combination(_FIFTH, slopes)
            error = self._size(layout, h[:, None] * _combination(_ERROR, slopes), moving.y, y)
            evaluations += len(slopes) - 1  # the first is the last step's last
            accepted = error <= 1
            passed = accepted & (sign * (stops - moving.time) > 0) & (sign * (ahead - stops) >= 0)
            stop, of = passed.nonzero(as_tuple=True)
            if len(of):
                share = (stops[stop, 0] - moving.time[of]) / h[of]
                between = _interpolated(moving.y[of], y[of], h[of], [slope[of] for slope in slopes], share)
                visited[stop + 1, moving.rows[of]] = between
            moving.advance(accepted, ahead, y, slopes[-1])
            moving.step = h * _growth(error, accepted, moving)
            # a step that cannot get smaller meets a field that is not finite: the example stays nan
            lost = moving.step.abs() < 4 * torch.finfo(h.dtype).eps * max(abs(times[0]), abs(times[-1]))
            done = (accepted & final) | (lost & ~error.isfinite())
            if done.any():
                counts[moving.rows[done]] = evaluations
                moving = moving.only(~done)
            if evaluations > self.max_evaluations and len(moving.rows):
                raise TooManyEvaluations(
                    f"an adaptive solver at rtol {self.rtol:g} and atol {self.atol:g} has not come to the end in "
                    f"{self.max_evaluations} evaluations: raise the tolerances or max_evaluations"
                )
        return Solution(layout.split(visited), counts)

    def _begin(self, field: Field, layout: _Layout, y: Tensor, times: Sequence[float], sign: float) -> _Moving:
        """All examples at the start, each with a first step of its own (Hairer et al., II.4)."""
        rows = torch.arange(len(y), device=y.device)
        time = y.new_full((len(y),), times[0])
        slope = layout.join(field(rows, time, layout.split(y)))
        size, speed = self._size(layout, y, y, y), self._size(layout, slope, y, y)
        first = torch.where((size < 1e-5) | (speed < 1e-5), 1e-6, 0.01 * size / speed)
        first = first.nan_to_num(1e-6).clamp(max=abs(times[-1] - times[0]))
        probe = y + sign * first[:, None] * slope
        bend = layout.join(field(rows, time + sign * first, layout.split(probe))) - slope
        fastest = torch.maximum(speed, self._size(layout, bend, y, y) / first)
        second = torch.where(fastest <= 1e-15, torch.clamp(first * 1e-3, min=1e-6), (0.01 / fastest) ** 0.2)
        step = sign * torch.minimum(100 * first, second.nan_to_num(1e-6))
        return _Moving(rows, time, y, slope, step, torch.full_like(time, 1e-4), torch.ones_like(time))

    def _stages(self, field: Field, layout: _Layout, moving: _Moving, h: Tensor, ahead: Tensor) -> list[Tensor]:
        """The seven slopes of a step, [A, N] each; the last is at its end."""
        slopes = [moving.slope]
        for node, weights in zip((*_NODES[1:], 1.0), (*_STAGES[1:], _FIFTH)):
            y = moving.y + h[:, None] * _combination(weights, slopes)
            time = ahead if node == 1.0 else moving.time + node * h
            slopes.append(layout.join(field(moving.rows, time, layout.split(y))))
        return slopes

    def _size(self, layout: _Layout, value: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """[A]: the root mean square of value [A, N] over what is tolerated, of the part where it is largest."""
        tolerated = self.atol + self.rtol * torch.maximum(before.abs(), after.abs())
        parts = (value / tolerated).split(layout.sizes, dim=1)
        return torch.stack([part.square().mean(1).sqrt() for part in parts]).amax(0)


@dataclass
class _Moving:
    """The examples that have not arrived.

    Attributes:
        rows: which of the batch they are, [A].
        time, y, slope: where they are; [A], [A, N] and [A, N].
        step: what they try next, with its sign, [A].
        last_error: of the last step that was taken, [A].
        most: by how much the next step may grow, [A]: not at all after one that was refused.
    """

    rows: Tensor
    time: Tensor
    y: Tensor
    slope: Tensor
    step: Tensor
    last_error: Tensor
    most: Tensor

    def advance(self, accepted: Tensor, time: Tensor, y: Tensor, slope: Tensor) -> None:
        self.time = torch.where(accepted, time, self.time)
        self.y = torch.where(accepted[:, None], y, self.y)
        self.slope = torch.where(accepted[:, None], slope, self.slope)

    def only(self, mask: Tensor) -> _Moving:
        return _Moving(*(getattr(self, f.name)[mask] for f in fields(self)))


def _growth(error: Tensor, accepted: Tensor, moving: _Moving) -> Tensor:
    """By what the step is multiplied; notes in `moving` what the next call needs to know."""
    floor = error.nan_to_num(torch.inf, torch.inf).clamp(min=1e-10)
    free = _SAFETY * floor ** -(0.2 - 0.75 * _MEMORY) * moving.last_error**_MEMORY
    taken = torch.minimum(free.clamp(_SMALLEST, _LARGEST), moving.most * _LARGEST)
    refused = (_SAFETY * floor**-0.2).clamp(_SMALLEST, 1.0)
    moving.last_error = torch.where(accepted, floor.clamp(min=1e-4), moving.last_error)
    moving.most = torch.where(accepted, 1.0, 1 / _LARGEST)
    return torch.where(accepted, taken, refused)


def _combination(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    """sum_i weights_i slopes_i, in a fixed order: a matrix product may round otherwise in another batch."""
    terms = [(weight, slope) for weight, slope in zip(weights, slopes) if weight]
    total = terms[0][0] * terms[0][1]
    for weight, slope in terms[1:]:
        total = torch.add(total, slope, alpha=weight)
    return total


def _interpolated(before: Tensor, after: Tensor, h: Tensor, slopes: list[Tensor], share: Tensor) -> Tensor:
    """The state at `share` [A] of a step, to order 4 (Hairer et al., II.6)."""
    h, share = h[:, None], share[:, None]
    way = after - before
    bend = h * slopes[0] - way
    twist = way - h * slopes[-1] - bend
    rest = h * _combination(_DENSE, slopes)
    return before + share * (way + (1 - share) * (bend + share * (twist + (1 - share) * rest)))


class _Layout(NamedTuple):
    """How a state's parts lie in one matrix [A, N]."""

    shapes: list[torch.Size]
    sizes: list[int]

    @classmethod
    def of(cls, state: State) -> _Layout:
        shapes = [part.shape[1:] for part in state]
        return cls(shapes, [shape.numel() for shape in shapes])

    def join(self, state: State) -> Tensor:
        return torch.cat([part.reshape(len(part), size) for part, size in zip(state, self.sizes)], 1)

    def split(self, y: Tensor) -> State:
        """Of [..., N]."""
        parts = y.split(self.sizes, dim=-1)
        return tuple(part.reshape(*y.shape[:-1], *shape) for part, shape in zip(parts, self.shapes))
