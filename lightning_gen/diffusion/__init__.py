"""Gaussian diffusion: the mathematics of its six axes, and the LightningModule that joins them.

The mathematics imports torch alone; Lightning comes in when `GaussianDiffusion` is first named.
"""

import importlib
from typing import Any

from lightning_gen.diffusion.adaptive import AdaptiveSampler
from lightning_gen.diffusion.bounds import LikelihoodEstimator, VariationalBound
from lightning_gen.diffusion.decoders import DiscretizedGaussian, NetworkDecoder, NetworkFree, Reconstruction
from lightning_gen.diffusion.denoisers import (
    Conditioned,
    Denoiser,
    GaussianDenoiser,
    NetworkDenoiser,
    TrainingSetDenoiser,
)
from lightning_gen.diffusion.flow_likelihood import (
    Dequantization,
    Divergence,
    ExactDivergence,
    GaussianDequantization,
    Hutchinson,
    ProbabilityFlowLikelihood,
    UniformDequantization,
)
from lightning_gen.diffusion.grids import Grid, KarrasRho, UniformLogSNR, UniformTime
from lightning_gen.diffusion.guidance import ClassifierFree, Guidance, Threshold
from lightning_gen.diffusion.imputation import Imputer, ReconstructionGuidance, Replacement
from lightning_gen.diffusion.parameterizations import (
    DataPrediction,
    EDMPrediction,
    MeanPrediction,
    NoisePrediction,
    Parameterization,
    Prediction,
    ScorePrediction,
    VelocityPrediction,
    VPrediction,
)
from lightning_gen.diffusion.paths import (
    GaussianPath,
    Linear,
    NoiseLevel,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from lightning_gen.diffusion.reverse_variances import (
    Analytic,
    FixedLarge,
    FixedSmall,
    LearnedRange,
    ReverseVariance,
)
from lightning_gen.diffusion.samplers import DiffusionSampler, Sampler
from lightning_gen.diffusion.schedules import (
    Cosine,
    DiscreteBeta,
    DiscreteCosine,
    DiscreteLinearBeta,
    FlowMatching,
    Geometric,
    Karras,
    Laplace,
    LearnedLinear,
    LearnedMonotone,
    LinearBeta,
    LinearLogSNR,
    NoiseSchedule,
    Shifted,
    Sigmoid,
    SubVPLinearBeta,
    Truncated,
    ZeroTerminal,
)
from lightning_gen.diffusion.second_models import AutoGuidance, ClassifierGuidance
from lightning_gen.diffusion.solvers import (
    DDIM,
    Ancestral,
    AnnealedLangevin,
    Churn,
    DPMSolverPP,
    Euler,
    EulerMaruyama,
    Heun,
    KarrasHeun,
    PredictorCorrector,
    Solver,
    UniPC,
    langevin_step,
)
from lightning_gen.diffusion.time_samplers import (
    LogitNormal,
    LogNormal,
    LossSecondMoment,
    LowDiscrepancy,
    TimeSampler,
    Uniform,
)
from lightning_gen.diffusion.variance_models import LearnedVariance, TrackedVariance, VarianceModel
from lightning_gen.diffusion.weightings import (
    P2,
    SNR,
    EDMWeighting,
    Elbo,
    LearnedUncertainty,
    MinSNR,
    SigmoidWeighting,
    Simple,
    SNRPlusOne,
    TruncatedSNR,
    Weighting,
)

__all__ = [
    "DDIM",
    "P2",
    "SNR",
    "AdaptiveSampler",
    "Analytic",
    "Ancestral",
    "AnnealedLangevin",
    "AutoGuidance",
    "Churn",
    "ClassifierFree",
    "ClassifierGuidance",
    "Conditioned",
    "Cosine",
    "DPMSolverPP",
    "DataPrediction",
    "Denoiser",
    "Dequantization",
    "DiffusionSampler",
    "DiscreteBeta",
    "DiscreteCosine",
    "DiscreteLinearBeta",
    "DiscretizedGaussian",
    "Divergence",
    "EDMPrediction",
    "EDMWeighting",
    "Elbo",
    "Euler",
    "EulerMaruyama",
    "ExactDivergence",
    "FixedLarge",
    "FixedSmall",
    "FlowMatching",
    "GaussianDenoiser",
    "GaussianDequantization",
    "GaussianDiffusion",
    "GaussianPath",
    "Geometric",
    "Grid",
    "Guidance",
    "Heun",
    "Hutchinson",
    "Imputer",
    "Karras",
    "KarrasHeun",
    "KarrasRho",
    "Laplace",
    "LearnedLinear",
    "LearnedMonotone",
    "LearnedRange",
    "LearnedUncertainty",
    "LearnedVariance",
    "LikelihoodEstimator",
    "Linear",
    "LinearBeta",
    "LinearLogSNR",
    "LogNormal",
    "LogitNormal",
    "LossSecondMoment",
    "LowDiscrepancy",
    "MeanPrediction",
    "MinSNR",
    "NetworkDecoder",
    "NetworkDenoiser",
    "NetworkFree",
    "NoiseLevel",
    "NoisePrediction",
    "NoiseSchedule",
    "NoisyClassifier",
    "Parameterization",
    "Prediction",
    "PredictorCorrector",
    "ProbabilityFlowLikelihood",
    "Reconstruction",
    "ReconstructionGuidance",
    "Replacement",
    "ReverseVariance",
    "SNRPlusOne",
    "Sampler",
    "ScorePrediction",
    "Shifted",
    "Sigmoid",
    "SigmoidWeighting",
    "Simple",
    "Solver",
    "SubVPLinearBeta",
    "SubVariancePreserving",
    "Threshold",
    "TimeSampler",
    "TrackedVariance",
    "TrainingSetDenoiser",
    "Truncated",
    "TruncatedSNR",
    "UniPC",
    "Uniform",
    "UniformDequantization",
    "UniformLogSNR",
    "UniformTime",
    "VPrediction",
    "VarianceExploding",
    "VarianceModel",
    "VariancePreserving",
    "VariationalBound",
    "VelocityPrediction",
    "Weighting",
    "ZeroTerminal",
    "langevin_step",
]


_MODULES = {"GaussianDiffusion": "module", "NoisyClassifier": "classifier_module"}
"""What imports Lightning, and where it stands."""


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
