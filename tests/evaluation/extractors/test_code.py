"""Code is told apart wherever it stands: in own files, in what they inherit from, in installed packages, in graphs."""

import importlib
import sys

import pytest
import torch
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import code
from lightning_gen.evaluation.extractors.code import described

FILES = {
    "base_of_test": "from torch import nn\n\nclass Base(nn.Module):\n    def forward(self, x):\n        return x.flatten(1)\n",
    "part_of_test": "from torch import nn\n\nclass Part(nn.Module):\n    def forward(self, x):\n        return x\n",
    "net_of_test": (
        "from base_of_test import Base\nfrom part_of_test import Part\n\ndef made():\n    return Net()\n\n"
        "class Net(Base):\n    def __init__(self):\n        super().__init__()\n        self.part = Part()\n"
    ),
    "maker_of_test": "from torch import nn\n\ndef made():\n    return nn.Flatten()\n",
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Own files on the path."""
    monkeypatch.syspath_prepend(tmp_path)
    for name, text in FILES.items():
        (tmp_path / f"{name}.py").write_text(text)
    yield tmp_path
    for name in FILES:
        sys.modules.pop(name, None)


def of(name):
    function = importlib.import_module(name).made
    return described(function(), function)


@pytest.mark.parametrize(
    ("name", "edited"),
    [
        ("net_of_test", "net_of_test"),
        ("net_of_test", "base_of_test"),
        ("net_of_test", "part_of_test"),
        ("maker_of_test", "maker_of_test"),
    ],
)
def test_every_file_that_the_network_is_made_of_counts(place, name, edited):
    before = of(name)
    assert of(name) == before
    with (place / f"{edited}.py").open("a") as file:
        file.write("# edited\n")
    assert of(name) != before


def test_installed_packages_count_by_their_version_and_not_by_their_build(monkeypatch):
    from torchvision.ops.misc import Permute

    network = nn.Sequential(nn.Flatten(), Permute([1, 0]))
    found = {}
    for version in ("2.8.0", "2.8.0+cpu", "2.9.0"):
        monkeypatch.setattr(code.metadata, "version", lambda name, version=version: version)
        found[version] = described(network)
    assert found["2.8.0"] == found["2.8.0+cpu"] != found["2.9.0"]


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_layers_and_graphs_count():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.list = nn.ModuleList([nn.Flatten()])

        def forward(self, x):
            x = self.list[0](x)
            return x.relu() if self.positive else x

    def traced(positive, trace):
        network = Own()
        network.positive = positive
        return trace(network)

    assert described(nn.Sequential(nn.ReLU())) != described(nn.Sequential(nn.SiLU()))
    for trace in (torch.fx.symbolic_trace, lambda network: torch.jit.trace(network, torch.ones(1, 2))):
        assert described(traced(True, trace)) == described(traced(True, trace)) != described(traced(False, trace))


def test_code_in_no_file_is_refused():
    space = {"nn": nn, "__name__": "nowhere_of_test"}
    exec("class Net(nn.Module):\n    pass", space)
    with pytest.raises(UserError, match=r"the code of nowhere_of_test.Net is in no file.*write it to a file"):
        described(space["Net"]())
