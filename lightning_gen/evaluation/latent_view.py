"""What pictures show of a model's latents, as tensors: pairs, walks between examples, traversals, grids. No Lightning."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.holes import LowerHalf, filled, imputing, known_of, side_by_side
from lightning_gen.pictures import save_film, save_samples
from lightning_gen.powers import LatentVariables
from lightning_gen.random_source import IndexedSource
from lightning_gen.specs import overridden

ACTIVE = 0.01
"""Var_x E[z | x] above which a dimension is active (Burda et al. 2016, appendix C)."""


class LatentView:
    """A generative model with the power LatentVariables, seen through examples, all of which are encoded once.

    What is shown of them are sheets [rows, columns, *shape] on the CPU, floats in the data's units (or the integers
    themselves). None of them depends on `batch_size`.

    Args:
        model: in eval mode, on `device`.
        examples: a split: `take(index)` has x and y.
        seed: of samples and of what fills holes.

    Attributes:
        z: posterior means of all examples, [N, d].
        variances: of each dimension of z over the examples, float64 [d].
        squared_errors: of each example's E[x | z], mean over the dimensions, in the data's units squared, float64 [N].
    """

    def __init__(
        self, model: Any, examples: Any, device: torch.device | str = "cpu", batch_size: int = 256, seed: int = 0
    ) -> None:
        self.model, self.examples, self.device, self.batch_size, self.seed = model, examples, device, batch_size, seed
        z, errors = [], []
        for index in torch.arange(len(examples)).split(batch_size):
            x, y = self._taken(index)
            z.append(self._batched(model.encode, x, y))
            expected = self._batched(model.expected, z[-1], y)
            errors.append((expected.double() - x.double()).flatten(1).square().mean(1))
        self.z, self.squared_errors = torch.cat(z), torch.cat(errors)
        self.variances = self.z.double().var(0, correction=0)

    @property
    def active_units(self) -> int:
        """Dimensions that say something of the data."""
        return int((self.variances > ACTIVE).sum())

    def reconstructions(self, num: int) -> Tensor:
        """[num, 2, *shape]: the first examples, each beside E[x | z] at its posterior's mean."""
        x, y = self._taken(torch.arange(num))
        return self._batched(lambda x, y: with_reconstructions(self.model, x, y), x, y)

    def interpolations(self, num: int, stations: int) -> Tensor:
        """[num, stations, *shape] between examples; a conditional model's have one condition.

        Raises:
            UserError: no two examples have one condition.
        """
        conditions = self.examples.y if getattr(self.model, "conditional", False) else None
        pairs = matching_pairs(num, len(self.examples), conditions)
        if not len(pairs):
            raise UserError("no two examples have the same label, and a conditional model interpolates within one")
        (start, y), (end, _) = (self._taken(index) for index in pairs.T)
        return self._batched(lambda start, end, y: self.model.interpolate(start, end, stations, y), start, end, y)

    def traversals(self, num: int, reach: float, stations: int, example: int = 0) -> Tensor:
        """[D, stations, *shape]: E[x | z] around an example, for the D <= num dimensions whose means vary most.

        Args:
            reach: how far z goes to either side of the example's own.
        """
        dims = self.variances.argsort(descending=True, stable=True)[:num]
        return self._decoded(traversed(self.z[example], dims, torch.linspace(-reach, reach, stations)), example)

    def manifold(self, side: int, example: int = 0) -> Tensor:
        """[side^2, 1, *shape]: E[x | z] on `normal_grid`, row by row; a conditional model's under one example's condition.

        Raises:
            UserError: other than two latents.
        """
        if self.z.shape[1] != 2:
            raise UserError(f"only two latents have a manifold to spread out, not {self.z.shape[1]}")
        return self._decoded(normal_grid(side), example).flatten(0, 1).unsqueeze(1)

    def samples(self, num: int, sampler: Any | None = None) -> Tensor:
        """[num, 1, *shape] from the prior; a conditional model's under the first examples' conditions.

        Args:
            sampler: of the family; the model's own by default.
        """

        def drawn(index: Tensor, y: Tensor | None) -> Tensor:
            return self.model.sample(len(index), y, sampler=sampler, rng=self._source(index))

        index = torch.arange(num)
        return self._batched(drawn, index, self._taken(index)[1]).unsqueeze(1)

    def temperatures(self, num: int, temperatures: Sequence[float]) -> Tensor:
        """[num, T, *shape]: `samples` at each of T temperatures, all of a row of the same noise.

        Raises:
            UserError: the model's sampler has no temperature.
        """
        sampler = getattr(self.model, "sampler", None)
        if not hasattr(sampler, "temperature"):
            raise UserError(f"{type(self.model).__name__} has no sampler with a temperature")
        return torch.cat([self.samples(num, overridden(sampler, {"temperature": t})) for t in temperatures], 1)

    def imputations(self, num: int, fillings: int) -> Tensor:
        """[num, 2 + fillings, *shape], integers: images, the same without their lower half (-1), and ways to fill it.

        Raises:
            UserError: the model has no power to impute, or the data are no images in levels.
        """
        model = imputing(self.model)
        x, y = self._taken(torch.arange(num))
        if x.ndim != 4 or self.model.levels is None:
            raise UserError(f"data of shape {tuple(x.shape[1:])} are no images with a lower half")
        known = known_of(LowerHalf(), num, x.shape[1:], self.seed)
        how = {"seed": self.seed, "batch_size": self.batch_size, "device": self.device}
        return side_by_side(x, known, filled(model, x, known, y, fillings, **how))

    def _taken(self, index: Tensor) -> tuple[Tensor, Tensor | None]:
        batch = self.examples.take(index)
        return batch.x, batch.y

    def _source(self, index: Tensor) -> IndexedSource:
        return IndexedSource(self.seed, index, self.device)

    def _decoded(self, z: Tensor, example: int) -> Tensor:
        """E[x | z] of latents [rows, columns, d] under one example's condition, [rows, columns, *shape]."""
        flat = z.flatten(0, 1)
        _, y = self._taken(torch.full((len(flat),), example))
        return self._batched(self.model.expected, flat, y).unflatten(0, z.shape[:2])

    @torch.no_grad()
    def _batched(self, function: Callable[..., Tensor], *columns: Tensor | None) -> Tensor:
        """`function` of columns [N, ...], a batch of rows at a time; a column that is None stays None."""
        found = []
        for first in range(0, len(columns[0]), self.batch_size):
            rows = (c if c is None else c[first : first + self.batch_size].to(self.device) for c in columns)
            found.append(function(*rows).cpu())
        return torch.cat(found)


def with_reconstructions(model: LatentVariables, x: Tensor, y: Tensor | None = None) -> Tensor:
    """[B, 2, *shape], floats in the data's units: x, and E[x | z] at its posterior's mean."""
    return torch.stack([x.float(), model.expected(model.encode(x, y), y).float()], 1)


def matching_pairs(num: int, total: int, conditions: Tensor | None = None) -> Tensor:
    """int64 [P, 2], the first P <= num disjoint pairs of {0..total-1}, of one condition where there are any [total, ...]."""
    waiting: dict[Any, int] = {}
    pairs: list[tuple[int, int]] = []
    for index in range(total):
        if len(pairs) == num:
            break
        key = None if conditions is None else tuple(torch.as_tensor(conditions[index]).flatten().tolist())
        if key in waiting:
            pairs.append((waiting.pop(key), index))
        else:
            waiting[key] = index
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


def traversed(z: Tensor, dims: Tensor, offsets: Tensor) -> Tensor:
    """[D, S, d]: row i is z [d] with the offsets [S] added to its dimension dims[i]."""
    moved = z.expand(len(dims), len(offsets), -1).clone()
    moved[torch.arange(len(dims)), :, dims] += offsets.to(z)
    return moved


def normal_grid(side: int) -> Tensor:
    """[side, side, 2]: quantiles of the standard normal at (i + 1/2) / side (Kingma and Welling 2014, fig. 4).

    As in a plot the first number grows to the right and the second upwards: row 0 is the top.
    """
    quantiles = torch.special.ndtri((torch.arange(side, dtype=torch.float64) + 0.5) / side).float()
    return torch.stack(torch.meshgrid(quantiles, quantiles.flip(0), indexing="xy"), 2)


def pair_columns(num: int) -> int:
    """How many images a row has of `num` pairs side by side, so that the sheet is about as high as wide."""
    return 2 * max(1, round(math.sqrt(num / 2)))


def save_sheet(x: Tensor, levels: int | None, path: Path, columns: int | None = None) -> None:
    """Writes a sheet [rows, columns, *shape]: images side by side, points of the plane as one panel a column.

    Args:
        columns: of images that are laid out in other rows than x has.

    Raises:
        UserError: for data that are neither.
    """
    if x.ndim == 5:
        save_samples(x.flatten(0, 1), levels, path, columns or x.shape[1])
    else:
        save_film(x, levels, path)
