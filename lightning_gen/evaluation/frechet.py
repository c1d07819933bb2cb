"""The Frechet distance between Gaussians fitted to two sets of features (Heusel et al. 2017, arXiv:1706.08500).

Sums are taken and matrices decomposed in float64. Nothing here knows what the features are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from lightning_gen.errors import UserError


class Moments:
    """Mean and covariance of a set of feature vectors, and their number.

    Not a dataclass: torchmetrics maps over the fields of those that `compute` returns, and raises on a frozen one.

    Args:
        mean: [d], float64.
        cov: [d, d], float64, unbiased (divided by count - 1).
        count: number of vectors.

    Raises:
        UserError: fewer than two vectors, shapes that do not fit, or NaN or infinite numbers.
    """

    __slots__ = ("count", "cov", "mean")

    def __init__(self, mean: Tensor, cov: Tensor, count: int) -> None:
        if count < 2:
            raise UserError(f"a covariance needs at least 2 samples, got {count}")
        if mean.ndim != 1 or cov.shape != (len(mean), len(mean)):
            raise UserError(f"a mean of shape {tuple(mean.shape)} and a covariance of {tuple(cov.shape)} do not fit")
        if not (torch.isfinite(mean).all() and torch.isfinite(cov).all()):
            raise UserError("the features hold NaN or infinite values")
        self.mean = mean.double()
        self.cov = cov.double()
        self.count = count

    @property
    def num_features(self) -> int:
        return len(self.mean)

    def to(self, device: torch.device | str) -> Moments:
        if self.mean.device == torch.device(device):
            return self
        return Moments(self.mean.to(device), self.cov.to(device), self.count)


class FeatureStatistics(Metric):
    """Sums n, sum f and sum f f^T over the feature vectors of all ranks.

    The state is float64 and stays so under `.to(dtype)`, `.half()` and `set_dtype`: those move it between devices only.
    No shift is subtracted: forming n cov as a difference loses eps (mean / std)^2, measured as 2e-11 of the covariance
    where the mean is a hundred times the deviation; float32 features have by then lost 1e-5 themselves.

    Args:
        num_features: d, told in advance so that a rank without a sample still holds zeros of the right shape.
    """

    full_state_update = False
    higher_is_better = None
    is_differentiable = False

    num_samples: Tensor
    feature_sum: Tensor
    feature_product_sum: Tensor

    def __init__(self, num_features: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_features = num_features
        zeros = torch.zeros(num_features, dtype=torch.float64)
        self.add_state("num_samples", zeros.new_zeros(()), dist_reduce_fx="sum")
        self.add_state("feature_sum", zeros, dist_reduce_fx="sum")
        self.add_state("feature_product_sum", zeros.new_zeros(num_features, num_features), dist_reduce_fx="sum")

    def update(self, features: Tensor) -> None:
        """Add a batch of features [B, d]; B may be 0. Raises UserError for another width.

        Values are looked at in `compute`, where they cost no synchronisation and fail on all ranks alike.
        """
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise UserError(f"features of shape {tuple(features.shape)} where [B, {self.num_features}] is expected")
        features = features.detach().to(self.feature_sum.device).double()
        self.num_samples += len(features)
        self.feature_sum += features.sum(0)
        self.feature_product_sum += features.T @ features

    def compute(self) -> Moments:
        """The moments over all ranks. Raises UserError below two samples and for NaN or infinite features."""
        n = self.num_samples
        mean = self.feature_sum / n
        cov = (self.feature_product_sum - n * torch.outer(mean, mean)) / (n - 1)
        return Moments(mean, (cov + cov.T) / 2, int(n))

    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> nn.Module:
        # torchmetrics guards its states against `.half()` but not against `.to(torch.float16)` or `set_dtype`, which
        # reach every metric inside a module that is cast: follow the device of what `fn` does, never its dtype
        return super()._apply(lambda state: state.to(fn(torch.empty(0, device=state.device)).device), exclude_state)


@dataclass(frozen=True)
class Reference:
    """Moments of the data that samples are measured against, with the root of their covariance, made once.

    Attributes:
        root: [d, d], symmetric, root root = cov.
        factor: [d, d], upper triangular, factor^T factor = cov; it follows from the root.
    """

    moments: Moments
    root: Tensor
    factor: Tensor = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Q^T root for an orthogonal Q, so it stands for the root in any spectrum, and its zeros save most of a product;
        # unlike Cholesky's, it exists for singular covariances
        object.__setattr__(self, "factor", torch.linalg.qr(self.root, mode="r").R)

    @classmethod
    def from_moments(cls, moments: Moments) -> Reference:
        """The reference with its symmetric root by eigendecomposition; eigenvalues below rounding noise count as 0."""
        values, vectors = torch.linalg.eigh(moments.cov)
        values = _without_noise(values, scale=values[-1])
        return cls(moments, (vectors * values.sqrt()) @ vectors.T)


def frechet_distance(generated: Moments, reference: Reference) -> float:
    """|m_g - m_r|^2 + tr S_g + tr S_r - 2 tr (S_r^(1/2) S_g S_r^(1/2))^(1/2), in squared units of the features.

    The trace of the root is the sum of the roots of the eigenvalues of a symmetric matrix, so singular covariances
    (fewer samples than features) need neither an offset nor complex numbers. With S_r = U^T U they are also those of
    U S_g U^T, which costs less. Never negative.

    Raises:
        UserError: the two have different numbers of features.
    """
    target = reference.moments
    if generated.num_features != target.num_features:
        raise UserError(
            f"the samples have {generated.num_features} features and the reference has {target.num_features}"
        )
    generated = generated.to(target.mean.device)
    # the noise is that of the factors, which the product's own eigenvalues fall below where the two hardly overlap
    scale = torch.linalg.matrix_norm(target.cov) * torch.linalg.matrix_norm(generated.cov)
    eigenvalues = torch.linalg.eigvalsh(upper_congruence(reference.factor, generated.cov), UPLO="U")
    overlap = _without_noise(eigenvalues, scale).sqrt().sum()
    distance = (generated.mean - target.mean).square().sum() + generated.cov.trace() + target.cov.trace() - 2 * overlap
    return max(distance.item(), 0.0)


def upper_congruence(factor: Tensor, cov: Tensor, block: int = 256) -> Tensor:
    """Upper triangle of factor cov factor^T, [d, d]; what stands below the diagonal means nothing.

    For an upper triangular factor and a symmetric cov: with the zeros skipped, by blocks, a third of the work of two
    full products is left.
    """
    product = torch.zeros_like(cov)
    for start in range(0, len(cov), block):
        end = start + block
        product[start:end, start:] = factor[start:end, start:] @ cov[start:, start:]
    for start in range(0, len(cov), block):
        end = start + block
        product[:end, start:end] = product[:end, start:] @ factor[start:end, start:].T
    return product


def _without_noise(eigenvalues: Tensor, scale: Tensor) -> Tensor:
    """Eigenvalues of a positive semi-definite matrix of norm `scale`, those below eps scale set to zero.

    Rounding gives null directions eigenvalues of about eps scale, of either sign. Their roots, 1e-8 each, add up over
    the hundreds of null directions of a covariance from few samples; negative ones would make the root complex.
    """
    return torch.where(eigenvalues > torch.finfo(eigenvalues.dtype).eps * scale, eigenvalues, 0.0)
