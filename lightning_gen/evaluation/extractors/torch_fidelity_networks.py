"""torch-fidelity's feature extractors: its Inception, in whose features a distance is called FID, and the others."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from lightning_gen.errors import UserError, WeightsUnavailable
from lightning_gen.evaluation.extractors import weights as files
from lightning_gen.evaluation.extractors.base import Classifier, Extractor
from lightning_gen.evaluation.extractors.code import described, version_of
from lightning_gen.evaluation.pixels import to_uint8
from lightning_gen.precision import full_float32
from lightning_gen.refusals import nearest

INCEPTION = "inception-v3-compat"

FID = (INCEPTION, "2048", "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2")
"""What the name FID is kept for: the network, its layer, and the SHA-256 of the file of its weights, which
torch-fidelity, pytorch-fid and torchmetrics share (converted from those of Heusel et al. 2017, arXiv:1706.08500)."""


class TorchFidelity(Extractor):
    """One of torch-fidelity's registered feature extractors: Inception, VGG-16, CLIP or DINOv2.

    Images of any size, as 8-bit pixels; grey ones become three equal channels. The network resizes and normalises them
    as its authors do. It computes in float32 whatever the precision of its surroundings is. The digest changes with the
    versions of torch-fidelity and of what the network is made of.

    Args:
        name: that torch-fidelity registers it under, such as "vgg16" or "clip-vit-b-32".
        weights: path of a file of weights; the published ones by default, downloaded on first use.
        layer: of the features; torch-fidelity's default for FID where there is none.

    Raises:
        UserError: an unknown name or layer, or a file that does not hold such weights.
        WeightsUnavailable: the published weights are not here and cannot be downloaded.
    """

    VERSION = "torch-fidelity-1 uint8 pixels, grey repeated to 3 channels, float32"
    """Part of the digest: to be raised whenever equal weights would give other features."""

    def __init__(self, name: str = INCEPTION, weights: str | None = None, layer: str | int | None = None) -> None:
        kind = _registered_class(name)
        known, default = kind.get_provided_features_list(), kind.get_default_feature_layer_for_metric("fid")
        self.layer = default if layer is None else str(layer)
        if self.layer not in known:
            raise UserError(f"{name} has no layer {self.layer!r}: --extractor.layer is one of {', '.join(known)}")
        self.name = name if self.layer == default else f"{name}-{self.layer}"
        self._network, fingerprint = _load(name, weights, self.layer)
        self.to("cpu")
        self.digest = files.digest(f"{self.VERSION} {name} {self.layer} {fingerprint} {_code(self._network)}")
        self.canonical = (name, self.layer, fingerprint) == FID
        self.num_features = self._outputs(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), [self.layer])[0].shape[1]

    def __call__(self, x: Tensor, levels: int | None) -> Tensor:
        """Features [B, d], float32, of integers x [B, 1 or 3, H, W].

        Raises:
            UserError: images of another number of channels, or data without levels.
        """
        return self._outputs(self._pixels(x, levels), [self.layer])[0]

    def to(self, device: torch.device | str) -> Self:
        self._device = torch.device(device)
        # on a CPU channels_last makes Inception half as fast again, and equal to 2e-7
        last = self._device.type == "cpu"
        self._network.to(self._device, memory_format=torch.channels_last if last else torch.contiguous_format)
        return self

    def _pixels(self, x: Tensor, levels: int | None) -> Tensor:
        if x.ndim != 4 or x.shape[1] not in (1, 3):
            raise UserError(
                f"the extractor {self.name!r} takes images of 1 or 3 channels, the data have shape {tuple(x.shape[1:])}"
            )
        return to_uint8(x, levels).expand(-1, 3, -1, -1)

    @torch.no_grad()
    def _outputs(self, pixels: Tensor, wanted: list[str]) -> tuple[Tensor, ...]:
        """These layers of uint8 pixels [B, 3, H, W]; nothing after the last of them is computed."""
        self._network.features_list = wanted
        with full_float32(self._device):
            return tuple(output.float() for output in self._network(pixels.to(self._device)))


class Inception(TorchFidelity, Classifier):
    """torch-fidelity's Inception v3, TensorFlow's of 2015: FID at the default layer with the published weights.

    The class logits of its Inception score are without bias, as in the reference implementation.

    Args:
        weights: path of a file of weights; the published ones by default, downloaded on first use.
        layer: "64", "192", "768" or "2048".
    """

    def __init__(self, weights: str | None = None, layer: str | int | None = None) -> None:
        super().__init__(INCEPTION, weights, layer)

    def features_and_logits(self, x: Tensor, levels: int | None) -> tuple[Tensor, Tensor]:
        logits = _registered_class(INCEPTION).get_default_feature_layer_for_metric("isc")
        return self._outputs(self._pixels(x, levels), [self.layer, logits])


def registered() -> list[str]:
    """Names of torch-fidelity's feature extractors, and of those that were added to its registry."""
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    return sorted(FEATURE_EXTRACTORS_REGISTRY)


def _registered_class(name: str) -> Any:
    from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

    if name not in FEATURE_EXTRACTORS_REGISTRY:
        known = registered()
        raise UserError(f"torch-fidelity has no extractor {name!r}{nearest(name, known)}: it has {', '.join(known)}")
    return FEATURE_EXTRACTORS_REGISTRY[name]


def published(name: str) -> files.Published | None:
    """The file of weights that belongs to an extractor; None where the library sees to that itself (DINOv2)."""
    from torch_fidelity.feature_extractor_clip import MODEL_METADATA, MODEL_URLS
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
    from torchvision.models import VGG16_Weights

    vgg = VGG16_Weights.IMAGENET1K_V1.url
    known = {
        INCEPTION: files.Published(URL_INCEPTION_V3, FID[2], Path(URL_INCEPTION_V3).name),
        "vgg16": files.Published(vgg, Path(vgg).stem.rpartition("-")[2], Path(vgg).name),
    }
    for clip, url in MODEL_URLS.items():
        sha256 = MODEL_METADATA[clip]["hash"]
        known[clip] = files.Published(url, sha256, f"{clip}-{sha256}.pt", torchscript=True)
    return known.get(name)


def _code(network: nn.Module) -> str:
    """What tells it from that of another version; torchvision's where the network's own preprocessing may call it."""
    calls_torchvision = hasattr(sys.modules[type(network).__module__], "torchvision")
    return f"{described(network)} {version_of('torchvision') if calls_torchvision else ''}"


def _load(name: str, weights: str | None, layer: str) -> tuple[nn.Module, str]:
    """The network, frozen, and what tells its weights from others: the SHA-256 of their file, or their digest."""
    source = published(name)
    if weights is not None:
        path, expected = files.existing(weights), ""
    elif source is not None:
        path, expected = source.fetch(), source.sha256
    else:
        network = _downloaded_by_the_library(name, layer)
        return network, files.digest("", network.state_dict())
    sha256 = files.sha256_of(path)
    if not sha256.startswith(expected):
        raise UserError(
            f"{path} is damaged, its SHA-256 begins with {sha256[:8]}: delete it, to have it downloaded again"
        )
    handed: Any = str(path)
    if source is None or not source.torchscript:
        # the library unpickles whatever it is given: it is given a file of these tensors, not the one that was found
        torch.save(files.read_tensors(path), handed := io.BytesIO())
        handed.seek(0)
    try:
        return _made(name, layer, feature_extractor_weights_path=handed), sha256
    except NotImplementedError as error:
        raise UserError(f"torch-fidelity takes no weights file for {name}: leave --extractor.weights out") from error
    except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
        raise UserError(f"{path} does not hold weights of {name}: {files.one_line(error)}") from error


def _downloaded_by_the_library(name: str, layer: str) -> nn.Module:
    try:
        with files.impatience():
            return _made(name, layer)
    except files.NO_DOWNLOAD as error:
        raise WeightsUnavailable(
            f"torch-fidelity cannot download {name} ({files.one_line(error)}): run once where there is a network, or "
            "choose another --extractor"
        ) from error


def _made(name: str, layer: str, **kwargs: Any) -> nn.Module:
    """torch-fidelity's network, frozen, made without a draw from the global random state."""
    from torch_fidelity.utils import create_feature_extractor

    with torch.random.fork_rng(devices=[]), full_float32("cpu"):
        return create_feature_extractor(name, [layer], cuda=False, verbose=False, **kwargs)
