"""Networks of a library: which weights they have, what they take, and what cannot change them."""

import copy
import hashlib
import http.client
import io
import os
import pickle
import urllib.error
import urllib.request

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError, WeightsUnavailable
from lightning_gen.evaluation.extractors import Inception, TorchFidelity, code
from lightning_gen.evaluation.extractors import torch_fidelity_networks as networks

torch_fidelity = pytest.importorskip("torch_fidelity")


@pytest.fixture(scope="module")
def early(inception_weights):
    """The cheap layer of random weights."""
    return Inception(inception_weights, layer="64")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """torch.hub's folder, empty, and no network: the list of what was asked for."""
    asked = []

    def refuse(request, *args, **kwargs):
        asked.append(request if isinstance(request, str) else request.full_url)
        raise urllib.error.URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "urlopen", refuse)
    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    return asked


def checkpoints(tmp_path):
    return tmp_path / "home" / "hub" / "checkpoints"


class Served(io.BytesIO):
    """An answer to a download."""

    def info(self):
        return http.client.HTTPMessage()


def fake_registration(monkeypatch, content, sha256=None):
    """Makes `content` the published weights of Inception."""
    known = networks.files.Published(
        "https://where.test/weights.pth", sha256 or hashlib.sha256(content).hexdigest(), "weights.pth"
    )
    monkeypatch.setattr(networks, "published", lambda name: known)
    return known


# Which weights


def test_fid_is_kept_for_the_known_bytes_at_the_last_layer(inception_weights, monkeypatch):
    other = Inception(inception_weights)
    assert not other.canonical and other.label == "FD[inception-v3-compat]"
    sha256 = networks.files.sha256_of(networks.files.existing(inception_weights))
    monkeypatch.setattr(networks, "FID", (*networks.FID[:2], sha256))
    assert Inception(inception_weights).label == "FID"
    early = Inception(inception_weights, layer=64)
    assert not early.canonical and early.label == "FD[inception-v3-compat-64]"


def test_the_known_bytes_are_those_that_the_libraries_download():
    sha256 = networks.published("inception-v3-compat").sha256
    assert len(sha256) == 64 and networks.published("inception-v3-compat").file.endswith(f"-{sha256[:8]}.pth")


def test_the_digest_changes_with_weights_layer_and_version(early, inception_weights, tmp_path, monkeypatch):
    state = torch.load(inception_weights, weights_only=True)
    state["fc.bias"][0] += 1
    torch.save(state, tmp_path / "other.pth")
    digests = [early.digest, Inception(inception_weights, layer="64").digest]
    assert digests[0] == digests[1]
    digests += [Inception(inception_weights, layer="192").digest, Inception(str(tmp_path / "other.pth"), "64").digest]
    monkeypatch.setattr(TorchFidelity, "VERSION", "another")
    digests.append(Inception(inception_weights, layer="64").digest)
    version = code.metadata.version
    monkeypatch.setattr(code.metadata, "version", lambda name: "99" if "fidelity" in name else version(name))
    digests.append(Inception(inception_weights, layer="64").digest)
    assert len(set(digests)) == 5


def test_networks_that_call_torchvision_are_told_by_its_version(early, monkeypatch):
    vgg = object.__new__(networks._registered_class("vgg16"))
    nn.Module.__init__(vgg)
    before = [networks._code(network) for network in (vgg, early._network)]
    version = code.metadata.version
    monkeypatch.setattr(code.metadata, "version", lambda name: "99" if name == "torchvision" else version(name))
    assert [networks._code(network) == old for network, old in zip((vgg, early._network), before)] == [False, True]


@pytest.mark.parametrize("name", ["inception-v3-compat", "vgg16", "clip-vit-b-32", "dinov2-vit-s-14"])
def test_weights_that_cannot_be_had_are_told_in_a_line(hub, name):
    with pytest.raises(WeightsUnavailable) as caught:
        TorchFidelity(name)
    source = networks.published(name)
    assert hub and "\n" not in str(caught.value)
    if source is not None:
        assert hub == [source.url]
        for told in (source.file, source.url, "checkpoints", "--extractor.weights PATH"):
            assert told in str(caught.value)


def test_a_download_is_kept_and_not_repeated(hub, inception_weights, tmp_path, monkeypatch, capfd):
    content = networks.files.existing(inception_weights).read_bytes()
    fake_registration(monkeypatch, content)
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: Served(content))
    first = Inception(layer="64")
    monkeypatch.setattr(torch.hub, "urlopen", None)
    assert Inception(layer="64").digest == first.digest
    assert [file.name for file in checkpoints(tmp_path).iterdir()] == ["weights.pth"]
    assert capfd.readouterr() == ("", "")  # no terminal, no progress bar


@pytest.mark.parametrize("served", [b"half of the w", b"other bytes"])
def test_a_download_of_other_bytes_is_not_kept(hub, tmp_path, monkeypatch, served):
    fake_registration(monkeypatch, b"half of the weights")
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: Served(served))
    with pytest.raises(WeightsUnavailable, match="hash"):
        Inception()
    assert not list(checkpoints(tmp_path).iterdir())


def test_damaged_weights_in_the_folder_are_refused(hub, tmp_path, monkeypatch):
    fake_registration(monkeypatch, b"whole")
    checkpoints(tmp_path).mkdir(parents=True)
    (checkpoints(tmp_path) / "weights.pth").write_bytes(b"whol")
    with pytest.raises(UserError, match="damaged.*delete it"):
        Inception()
    assert not hub


class Bomb:
    def __reduce__(self):
        return os.mkdir, (self.place,)


def test_a_file_that_would_run_code_is_not_opened(tmp_path):
    bomb = Bomb()
    bomb.place = str(tmp_path / "exploded")
    torch.save({"weight": bomb}, tmp_path / "bomb.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(bomb, protocol=2))
    for file in ("bomb.pth", "plain.pth"):
        with pytest.raises(UserError, match="tensors alone"):
            Inception(str(tmp_path / file))
    assert not (tmp_path / "exploded").exists()


def test_files_that_hold_no_such_weights_are_told_in_a_line(tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "few.pth")
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    for name, weights, words in (
        ("inception-v3-compat", tmp_path / "few.pth", "does not hold weights of inception-v3-compat"),
        ("vgg16", tmp_path / "list.pth", "no state dict"),
        ("inception-v3-compat", tmp_path / "nowhere.pth", "there is no file .*nowhere.pth.*--extractor.weights"),
        ("dinov2-vit-s-14", tmp_path / "few.pth", "takes no weights file"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            TorchFidelity(name, str(weights))
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_unknown_names_and_layers_are_refused(inception_weights):
    with pytest.raises(UserError, match="no extractor 'vgg19', did you mean vgg16"):
        TorchFidelity("vgg19")
    with pytest.raises(UserError, match="no layer '2084'.* 64, 192, 768, 2048"):
        Inception(inception_weights, layer="2084")


# What the features are of


def test_the_number_of_features_is_found_out(early, inception_weights, photographs):
    assert early.num_features == 64 and early(photographs(2, 0), 256).shape == (2, 64)
    assert TorchFidelity("inception-v3-compat", inception_weights, "192").num_features == 192


def test_grey_images_are_repeated_and_other_channels_refused(early, photographs):
    grey = photographs(2, 0)[:, :1]
    assert torch.equal(early(grey, 256), early(grey.repeat(1, 3, 1, 1), 256))
    for channels in (2, 4):
        with pytest.raises(UserError, match=rf"1 or 3 channels, the data have shape \({channels}, 8, 8\)"):
            early(torch.zeros(1, channels, 8, 8, dtype=torch.uint8), 256)
    with pytest.raises(UserError, match=r"1 or 3 channels.*\(2,\)"):
        early(torch.zeros(5, 2), None)


def test_levels_are_seen_as_pixels(early):
    x = torch.randint(17, (2, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(early(x, 17), early((x * 255 / 16).round().long(), 256))


def test_the_features_do_not_change_with_batches_or_the_logits_beside_them(early, photographs):
    x = photographs(3, 0)
    features, logits = early.features_and_logits(x[:1], 256)
    assert logits.shape == (1, 1008)
    torch.testing.assert_close(features, early(x, 256)[:1], rtol=1e-5, atol=1e-6)


def test_the_precision_of_the_surroundings_changes_nothing(early, inception_weights, photographs):
    x = photographs(2, 0)
    expected = early(x, 256)
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            found = early(x, 256)
            made = Inception(inception_weights, layer="64")(x, 256)
        assert torch.get_default_dtype() == torch.bfloat16 and torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(precision)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected) and torch.equal(made, expected)


def test_the_module_that_holds_it_does_not_own_it(early, photographs):
    module = nn.Module()
    module.extractor = copy.deepcopy(early)
    expected = early(photographs(1, 0), 256)
    module.train().to(torch.bfloat16)
    assert not module.state_dict()
    assert torch.equal(module.extractor(photographs(1, 0), 256), expected)
    assert not expected.requires_grad


def test_making_one_draws_nothing_from_the_global_state(inception_weights):
    state = torch.get_rng_state()
    Inception(inception_weights, layer="64")
    assert torch.equal(torch.get_rng_state(), state)
