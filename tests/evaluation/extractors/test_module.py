"""Any module as an extractor: frozen, told apart, and a function of its spec."""

import importlib
import sys
import types

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import ModuleFeatures


class Net(nn.Module):
    """A convolution over the whole image, with layers that training changes."""

    def __init__(self, channels: int = 1, width: int = 4):
        super().__init__()
        self.norm = nn.BatchNorm2d(channels)
        self.layer = nn.Conv2d(channels, width, 6)
        self.drop = nn.Dropout()

    def forward(self, x):
        self.seen = x
        return self.drop(self.layer(self.norm(x)))


class Spread(nn.Module):
    def forward(self, x):
        return x


class Pair(nn.Module):
    def forward(self, x):
        return x, x


@pytest.fixture(autouse=True)
def place(monkeypatch):
    """The classes above at a dotted path."""
    module = types.ModuleType("nets_of_test")
    module.__file__ = __file__
    for kind in (Net, Spread, Pair):
        monkeypatch.setattr(kind, "__module__", "nets_of_test")
        setattr(module, kind.__name__, kind)
    monkeypatch.setitem(sys.modules, "nets_of_test", module)


def net(**kwargs):
    return ModuleFeatures("nets_of_test.Net", **{"shape": [1, 6, 6], **kwargs})


@pytest.fixture
def x():
    return torch.randint(17, (5, 1, 6, 6), generator=torch.Generator().manual_seed(0))


def test_it_gets_pixels_in_the_unit_interval_and_gives_vectors(x):
    extractor = net()
    features = extractor(x, 17)
    assert features.shape == (5, 4) and features.dtype == torch.float32 and not features.requires_grad
    assert (extractor.num_features, extractor.name, extractor.canonical) == (4, "Net", False)
    seen = extractor._network.seen
    torch.testing.assert_close(seen, (x * 255 / 16).round().float() / 255)


def test_it_is_frozen(x):
    extractor = net()
    first = extractor(x, 17)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(extractor(x, 17), first)  # no dropout, no statistics of the batch, no other precision
    torch.testing.assert_close(extractor(x[:2], 17), first[:2])


def test_it_is_a_function_of_its_spec_alone(x):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = net()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = net()
    assert again.digest == first.digest and torch.equal(again(x, 17), first(x, 17))


def test_the_digest_changes_with_everything_that_the_features_depend_on(tmp_path, monkeypatch):
    state = Net().state_dict()
    torch.save(state, tmp_path / "a.pt")
    save_file(state, tmp_path / "a.safetensors")
    loaded = net(weights=str(tmp_path / "a.pt"))
    assert (
        loaded.digest
        == net(weights=str(tmp_path / "a.safetensors")).digest
        == net(weights=str(tmp_path / "a.pt"), seed=3).digest
    )
    digests = [loaded, net(), net(seed=1), net(arguments={"width": 5}), net(arguments={"channels": 3}, shape=[3, 6, 6])]
    monkeypatch.setattr(ModuleFeatures, "VERSION", "another")
    assert len({each.digest for each in [*digests, net()]}) == 6


def test_the_digest_changes_with_the_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = "from torch import nn\n\nclass Own(nn.Flatten):\n    def forward(self, x):\n        return super().forward({})\n"

    def written(what):
        (tmp_path / "own_nets.py").write_text(text.format(what))
        monkeypatch.delitem(sys.modules, "own_nets", raising=False)
        importlib.invalidate_caches()
        return ModuleFeatures("own_nets.Own", [1, 6, 6])

    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first, other, again = written("x"), written("x * 2"), written("x")
    x = torch.ones(1, 1, 6, 6, dtype=torch.uint8)
    assert not torch.equal(first(x, 2), other(x, 2))
    assert first.digest != other.digest and first.digest == again.digest


def test_weights_from_a_file_are_used(tmp_path, x):
    torch.manual_seed(7)
    other = Net().eval()
    torch.save(other.state_dict(), tmp_path / "a.pt")
    expected = other((x * 255 / 16).round().float() / 255).flatten(1)
    torch.testing.assert_close(net(weights=str(tmp_path / "a.pt"))(x, 17), expected)


def test_what_cannot_be_an_extractor_is_refused_in_a_line(tmp_path, x):
    torch.save({"a": torch.ones(1)}, tmp_path / "a.pt")
    for kwargs, words in (
        ({"module": "nets_of_test.Net", "shape": None}, r"give --extractor.shape \[C,H,W\]"),
        ({"module": "nets_of_test.Net", "shape": [3, 6, 6]}, r"refuses images of shape \(3, 6, 6\)"),
        ({"module": "nets_of_test.Net", "arguments": {"depth": 2}}, "cannot build nets_of_test.Net.*depth"),
        ({"module": "nets_of_test.Net", "weights": "nowhere.pt"}, "there is no file nowhere.pt"),
        (
            {"module": "nets_of_test.Net", "weights": str(tmp_path / "a.pt")},
            "does not hold weights of nets_of_test.Net",
        ),
        ({"module": "nets_of_test.Spread"}, r"Spread gives \(1, 1, 6, 6\) for 1 images"),
        ({"module": "nets_of_test.Pair"}, "Pair gives tuple"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            ModuleFeatures(**{"shape": [1, 6, 6], **kwargs})
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match=r"is for shape \(1, 6, 6\), the data have \(1, 7, 6\)"):
        net()(torch.zeros(1, 1, 7, 6), 17)
