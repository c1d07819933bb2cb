"""Denoisers map (x_t, logsnr, y) to E[x0 | x_t] and E[eps | x_t]. Solvers, guidance and likelihoods see nothing else.

Two of them are closed forms: what a perfect network would say of Gaussian data, and of the training set itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lightning_gen.broadcasting import broadcast
from lightning_gen.closed_forms import GaussianPosterior, TrainingSetPosterior
from lightning_gen.conditional import condition_or_null
from lightning_gen.diffusion.parameterizations import Parameterization, Prediction
from lightning_gen.diffusion.paths import GaussianPath, NoiseLevel
from lightning_gen.diffusion.schedules import NoiseSchedule
from lightning_gen.diffusion.variance_models import VarianceModel
from lightning_gen.networks.factory import checked
from lightning_gen.networks.layers import own_dtype


class Denoiser(ABC):
    """A denoiser at every noise level of one path."""

    path: GaussianPath

    @abstractmethod
    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        """x_t [B, ...], logsnr float32 [B] or [], y the data's own (labels, embeddings) or None for no condition."""

    def _scales(self, x_t: Tensor, logsnr: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma, _, _ = self.path.scales(logsnr.to(x_t.dtype))
        return broadcast(alpha, x_t), broadcast(sigma, x_t)


def asked(
    network: nn.Module,
    x_t: Tensor,
    level: NoiseLevel,
    scale: Tensor | None,
    cond: Tensor | None,
    shape: tuple[int, ...],
) -> Tensor:
    """network(scale x_t, logsnr, cond) at a level, in x_t's dtype.

    The state x_t keeps its dtype, the network runs in its own (and under autocast, if that is on), log-SNR stays
    float32: in bfloat16 a thousand noise levels collapse to about five hundred.

    Args:
        scale: of the input, [B] or []; None for nothing.
        shape: of the output.

    Raises:
        UserError: the output has another shape.
    """
    dtype = own_dtype(network, x_t.dtype)
    seen = x_t if scale is None else broadcast(scale.to(x_t.dtype), x_t) * x_t
    out = network(seen.to(dtype), level.logsnr.float().expand(len(x_t)), cond)
    return checked(network, out, shape).to(x_t.dtype)


class NetworkDenoiser(Denoiser):
    """A network and the linear map that turns its output into (x0, eps).

    Args:
        network: called as network(x, logsnr, cond).
        conditioner: turns y into `cond`, or None for an unconditional network.
        variance: what it knows beside the mean, or None.
    """

    def __init__(
        self,
        network: nn.Module,
        parameterization: Parameterization,
        schedule: NoiseSchedule,
        path: GaussianPath,
        conditioner: nn.Module | None = None,
        variance: VarianceModel | None = None,
    ) -> None:
        self.network, self.conditioner, self.variance = network, conditioner, variance
        self.parameterization, self.schedule, self.path = parameterization, schedule, path

    def output(
        self, x_t: Tensor, level: NoiseLevel, y: Tensor | None, drop: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """What the network says, in x_t's dtype: of the target, and its further channels if the variance takes any.

        `drop` [B] replaces those rows' y by the null condition.
        """
        cond = condition_or_null(self.conditioner, y, x_t, drop)
        scale = self.parameterization.input_scale(level)
        scale = scale if scale is not None else self.path.input_scale(level)
        channels = x_t.shape[1] * (1 if self.variance is None else self.variance.multiple)
        out = asked(self.network, x_t, level, scale, cond, (len(x_t), channels, *x_t.shape[2:]))
        if self.variance is None or self.variance.multiple == 1:
            return out, None
        return out.split((x_t.shape[1], out.shape[1] - x_t.shape[1]), dim=1)

    def prediction(self, out: Tensor, rest: Tensor | None, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """What that output means."""
        prediction = self.parameterization.to_prediction(out, x_t, level)
        return prediction if self.variance is None else self.variance.extend(prediction, rest, level)

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        level = self.path.at(self.schedule, self.schedule.time(logsnr.double())).to(x_t.dtype)
        return self.prediction(*self.output(x_t, level, y), x_t, level)


class GaussianDenoiser(Denoiser):
    """The posterior mean when the data are N(mean, covariance): the best any linear denoiser can do.

    Args:
        mean: the data's shape.
        covariance: [D, D] over the flattened data, positive semi-definite.
    """

    def __init__(self, mean: Tensor, covariance: Tensor, path: GaussianPath) -> None:
        self.path, self.mean = path, mean
        self.posterior = GaussianPosterior(mean.flatten(), covariance)

    @classmethod
    def fit(cls, x0: Tensor, path: GaussianPath) -> GaussianDenoiser:
        """The Gaussian with the mean and covariance of x0 [N, ...]."""
        fitted = cls.__new__(cls)
        fitted.path, fitted.posterior = path, GaussianPosterior.fit(x0)
        fitted.mean = fitted.posterior.mean.reshape(x0.shape[1:])
        return fitted

    @property
    def values(self) -> Tensor:
        """Eigenvalues of the covariance, [D], ascending, float64."""
        return self.posterior.values

    @property
    def vectors(self) -> Tensor:
        """Its eigenvectors, the columns of [D, D]."""
        return self.posterior.vectors

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        x0, eps, variance = self.posterior(x_t.flatten(1), *self._scales(x_t.flatten(1), logsnr))
        return Prediction(
            x0.to(x_t.dtype).reshape(x_t.shape), eps.to(x_t.dtype).reshape(x_t.shape), variance.to(x_t.dtype)
        )

    def entropy(self) -> Tensor:
        """Differential entropy of the data, nats."""
        return self.posterior.entropy()


class TrainingSetDenoiser(Denoiser):
    """The posterior mean when the data are exactly the training set: a softmax-weighted mean of its examples.

    It minimises the training loss over all functions, and samples from it are training examples: what memorising
    scores. For labelled data `y` restricts the mean to the examples of that class.

    Args:
        x0: the training set, [N, ...].
        labels: [N] int64, or None.
    """

    def __init__(self, x0: Tensor, path: GaussianPath, labels: Tensor | None = None) -> None:
        self.path, self.posterior = path, TrainingSetPosterior(x0, labels)

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        x0, eps, variance = self.posterior(x_t.flatten(1), *self._scales(x_t.flatten(1), logsnr), y)
        return Prediction(x0.reshape(x_t.shape), eps.reshape(x_t.shape), variance)


class ByClass(Denoiser):
    """A denoiser for each class, and one, of all the data, for no condition.

    Args:
        whole: of all classes.
        classes: of class k at place k.
    """

    def __init__(self, whole: Denoiser, classes: Sequence[Denoiser]) -> None:
        self.whole, self.classes, self.path = whole, classes, whole.path

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        if y is None:
            return self.whole(x_t, logsnr)
        logsnr = logsnr.expand(len(x_t))
        x0, eps, variance = torch.empty_like(x_t), torch.empty_like(x_t), x_t.new_empty(len(x_t))
        for k in y.unique().tolist():
            rows = y == k
            x0[rows], eps[rows], variance[rows], _ = self.classes[k](x_t[rows], logsnr[rows])
        return Prediction(x0, eps, variance)


class Conditioned(Denoiser):
    """A denoiser with y bound to it, counting its evaluations: what a solver is given."""

    def __init__(self, denoiser: Denoiser, y: Tensor | None) -> None:
        self.denoiser, self.y, self.path, self.evaluations = denoiser, y, denoiser.path, 0

    def __call__(self, x_t: Tensor, logsnr: Tensor, y: Tensor | None = None) -> Prediction:
        self.evaluations += 1
        return self.denoiser(x_t, logsnr, self.y if y is None else y)

    def at(self, x_t: Tensor, level: NoiseLevel) -> Prediction:
        """The prediction at a level."""
        return self(x_t, level.logsnr)
