"""Conditioners: what a data set gives as y (labels, embeddings) as the vector a network takes.

A conditioner has `dim`, `forward(y, drop)` -> [B, dim] and `null(batch_size, device)` -> [B, dim]. The null vector
stands for "no condition"; it is learned by dropping y in training (classifier-free guidance, Ho and Salimans 2022).
Every constructor begins with `num_classes`, which the family supplies once the data are known.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lightning_gen.domains import check_labels
from lightning_gen.errors import UserError


class ClassEmbedding(nn.Module):
    """A learned vector for each class, and one, the last, for none.

    Args:
        num_classes: labels are {0..num_classes-1}.
        dim: features of the output.

    Raises:
        UserError: if the data have no classes.
    """

    def __init__(self, num_classes: int | None, dim: int = 128) -> None:
        super().__init__()
        if num_classes is None or num_classes < 1:
            raise UserError("ClassEmbedding needs data with class labels, these have none")
        self.num_classes, self.dim = num_classes, dim
        self.embedding = nn.Embedding(num_classes + 1, dim)

    def forward(self, y: Tensor, drop: Tensor | None = None) -> Tensor:
        """Labels int64 [B] -> [B, dim]; rows where `drop`, bool [B], is true get the null vector."""
        if y.device.type == "cpu" or y.ndim != 1 or y.is_floating_point():  # elsewhere a look at the values would wait
            check_labels(y, self.num_classes)
        y = y.masked_fill(y == self.num_classes, -1)  # the null vector's row is no label: this one does not exist
        return self.embedding(y if drop is None else torch.where(drop, self.num_classes, y))

    def null(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """The null vector, repeated: [B, dim]."""
        rows = torch.full((batch_size,), self.num_classes, device=device or self.embedding.weight.device)
        return self.embedding(rows)


class LinearConditioner(nn.Module):
    """A linear map of an embedding (of a prompt, say), and a learned vector for none.

    Args:
        num_classes: ignored; an embedding has no classes, but the family calls every conditioner alike.
        features: of the embedding.
        dim: features of the output.
    """

    def __init__(self, num_classes: int | None, features: int, dim: int = 128) -> None:
        super().__init__()
        self.features, self.dim = features, dim
        self.projection = nn.Linear(features, dim)
        self.null_vector = nn.Parameter(torch.randn(dim))

    def forward(self, y: Tensor, drop: Tensor | None = None) -> Tensor:
        """Embeddings float [B, features] -> [B, dim]; rows where `drop`, bool [B], is true get the null vector."""
        if y.ndim != 2 or y.shape[1] != self.features:
            raise UserError(f"LinearConditioner takes embeddings [B, {self.features}], got shape {tuple(y.shape)}")
        out = self.projection(y)
        return out if drop is None else torch.where(drop[:, None], self.null_vector.to(out.dtype), out)

    def null(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """The null vector, repeated: [B, dim]."""
        return self.null_vector.to(device or self.null_vector.device).expand(batch_size, -1)
