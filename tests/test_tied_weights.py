"""A weight with two names is averaged, saved and loaded as one."""

import torch
from torch import nn

from lightning_gen import loading
from lightning_gen.callbacks import EMA
from lightning_gen.generative_module import CHECKPOINT_KEY, GenerativeModule


class Tied(GenerativeModule):
    def build(self):
        self.first = nn.Linear(1, 1, bias=False)
        self.second = self.first

    def training_loss(self, x, y=None):
        return {"loss": self.first(x).mean()}

    def sample(self, num, y=None, *, sampler=None, rng=None):
        return torch.zeros(num, 1)


def tied(value):
    module = Tied((1,), None, None)
    module.configure_model()
    nn.init.constant_(module.first.weight, value)
    return module


def test_both_names_hold_the_raw_weight_and_then_the_average(monkeypatch):
    module, ema = tied(1.0), EMA([0.5])
    module.averages = ema
    with ema.scope(module):
        pass  # the shadow is made of the value 1
    nn.init.constant_(module.first.weight, 2.0)
    with module.ema_scope():
        assert module.second.weight.item() == 1.0
        checkpoint = {"state_dict": {name: value.clone() for name, value in module.state_dict().items()}}
        module.on_save_checkpoint(checkpoint)
    assert {name: value.item() for name, value in checkpoint["state_dict"].items()} == {
        "first.weight": 2.0,
        "second.weight": 2.0,
    }
    checkpoint[CHECKPOINT_KEY]["recipe"] = {"model": {}}
    monkeypatch.setattr(loading, "build", lambda *args, **kwargs: Tied((1,), None, None))
    for weights, value in (("ema", 1.0), ("raw", 2.0)):
        loaded = loading.from_checkpoint(checkpoint, weights)
        assert loaded.first.weight.item() == loaded.second.weight.item() == value
