"""The averages' closed forms, the scope that uses them, and their way through checkpoints."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback

from lightning_gen.callbacks import EMA, Checkpoints
from lightning_gen.callbacks.ema import Constant, Power, WarmUp
from lightning_gen.errors import UserError
from lightning_gen.generative_module import CHECKPOINT_KEY


def weights(module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


class Trail(Callback):
    """The raw weights after each optimizer step, the initial ones first."""

    def __init__(self) -> None:
        self.seen = []

    def on_fit_start(self, trainer, module):
        self.seen.append(weights(module))

    def on_train_batch_end(self, trainer, module, *args):
        if trainer.global_step == len(self.seen):
            self.seen.append(weights(module))


def weighted(trail: list, shares) -> dict[str, torch.Tensor]:
    """The sum of share_k times the weights after step k, in float64."""
    return {name: sum(float(s) * w[name].double() for s, w in zip(shares, trail, strict=True)) for name in trail[0]}


def average(ema: EMA, module, name: str | None = None) -> dict[str, torch.Tensor]:
    with ema.scope(module, name):
        return weights(module)


def assert_close(a, b, **tolerance):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name].double(), b[name].double(), **{"rtol": 1e-5, "atol": 1e-6, **tolerance})


@pytest.mark.parametrize("micro", [None, 2], ids=["whole batches", "accumulated"])
def test_constant_decays_have_their_closed_form(trainer, model, data, micro):
    n, ema, trail, module = 7, EMA([0.5, 0.9], Constant()), Trail(), model()
    trainer(n, ema, trail).fit(module, data(micro_batch_size=micro))
    assert ema.updates == n and len(trail.seen) == n + 1
    for decay in (0.5, 0.9):
        shares = [decay**n, *((1 - decay) * decay ** (n - k) for k in range(1, n + 1))]
        assert sum(shares) == pytest.approx(1)
        assert_close(average(ema, module, str(decay)), weighted(trail.seen, shares))


def test_warm_up_forgets_the_initial_weights_and_then_keeps_its_decay(trainer, model, data):
    profile = WarmUp(offset=10)
    assert [profile.decay(0.999, n) for n in (1, 2, 90)] == [2 / 11, 3 / 12, 91 / 100]
    assert profile.decay(0.9, 80) == pytest.approx(0.9) and profile.decay(0.9, 81) == profile.decay(0.9, 10**6) == 0.9
    # without the cap the weight of the initial weights after n updates is 10! (n + 1)! / (10 + n)!, small soon
    ema, trail, module = EMA([0.9999], WarmUp(offset=2)), Trail(), model()
    trainer(6, ema, trail).fit(module, data())
    # (1 + n) / (2 + n): the share of step k after n updates is 1 / (n + 2), of the initial weights 2 / (n + 2)
    assert_close(average(ema, module), weighted(trail.seen, [2 / 8, *[1 / 8] * 6]))


@pytest.mark.parametrize("share, gamma", [(12**-0.5, 0), (2**0.5 / (3 * 2), 1), ((3 / 80) ** 0.5, 2), (0.1, None)])
def test_power_weighs_step_t_like_t_to_the_gamma(share, gamma):
    # the shares of a long run: their standard deviation over their length is the share that names the profile
    profile, n = Power(), 3000
    decays = torch.tensor([profile.decay(share, k) for k in range(1, n + 1)], dtype=torch.float64)
    assert decays[0] == 0.0  # nothing of the initial weights stays
    shares = (1 - decays) * torch.cat([decays[1:].flip(0).cumprod(0).flip(0), torch.ones(1, dtype=torch.float64)])
    torch.testing.assert_close(shares.sum(), torch.tensor(1.0, dtype=torch.float64))
    t = torch.arange(1, n + 1, dtype=torch.float64) / n
    mean = (shares * t).sum()
    assert ((shares * (t - mean).square()).sum().sqrt()).item() == pytest.approx(share, rel=2e-3)
    if gamma is not None:
        torch.testing.assert_close(shares[n // 2 :], (t**gamma / (t**gamma).sum())[n // 2 :], rtol=2e-3, atol=0)


def test_power_of_gamma_zero_is_the_mean_of_all_steps(trainer, model, data):
    ema, trail, module = EMA([12**-0.5], Power()), Trail(), model()
    trainer(5, ema, trail).fit(module, data())
    assert_close(average(ema, module), weighted(trail.seen, [0, *[1 / 5] * 5]))


@pytest.mark.parametrize("share", [0.999, 0.3])
def test_a_share_that_no_power_has_is_refused_at_construction(share):
    with pytest.raises(UserError, match="0.28"):
        EMA([0.1, share], Power())


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, 2.0])
def test_decays_lie_between_zero_and_one(decay):
    with pytest.raises(UserError, match=r"\(0, 1\)"):
        EMA([0.9, decay])


def test_buffers_and_frozen_parameters_are_left_alone(trainer, model, data):
    module, ema = model(), EMA([0.5], Constant())
    module.configure_model()
    module.network[0].bias.requires_grad_(False)
    frozen = module.network[0].bias.clone()
    trainer(4, ema).fit(module, data())
    assert module.batches == 4 and module.batches.dtype == torch.int64
    with ema.scope(module):
        assert module.batches == 4 and torch.equal(module.network[0].bias, frozen)
        module.batches += 1
    assert module.batches == 5 and torch.equal(module.network[0].bias, frozen)


def test_the_module_holds_no_average(trainer, model, data):
    plain, module = model(), model()
    trainer(2).fit(plain, data())
    trainer(2, EMA([0.5, 0.9])).fit(module, data())
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert [name for name, _ in module.named_modules()] == [name for name, _ in plain.named_modules()]


@pytest.fixture
def trained(trainer, model, data):
    """(module, ema, raw weights, the two averages) after four steps."""
    module, ema = model(), EMA([0.5, 0.9], Constant())
    trainer(4, ema).fit(module, data())
    raw = weights(module)
    averages = {name: average(ema, module, name) for name in ("0.5", "0.9")}
    assert not any(torch.equal(raw[key], averages[name][key]) for name in averages for key in raw)
    assert not any(torch.equal(averages["0.5"][key], averages["0.9"][key]) for key in raw)
    return module, ema, raw, averages


def test_the_scope_exchanges_the_weights_and_restores_them_to_the_bit(trained, equal):
    module, _, raw, averages = trained
    with module.ema_scope("0.9"):
        assert equal(weights(module), averages["0.9"])
    assert equal(weights(module), raw)
    with module.ema_scope():  # the first average
        assert equal(weights(module), averages["0.5"])
    assert equal(weights(module), raw)


def test_an_exception_in_the_scope_restores_them_too(trained, equal):
    module, _, raw, averages = trained
    with pytest.raises(ZeroDivisionError), module.ema_scope():
        raise ZeroDivisionError
    assert equal(weights(module), raw)
    with module.ema_scope("0.9"):  # and it can be opened again
        assert equal(weights(module), averages["0.9"])


def test_a_nested_scope_of_one_name_changes_nothing_and_of_another_is_refused(trained, equal):
    module, _, raw, averages = trained
    with module.ema_scope():
        with module.ema_scope("0.5"):
            assert equal(weights(module), averages["0.5"])
        assert equal(weights(module), averages["0.5"])
        with pytest.raises(RuntimeError, match=r"0\.5 is still open"), module.ema_scope("0.9"):
            pass
        assert equal(weights(module), averages["0.5"])
    assert equal(weights(module), raw)


def test_what_is_done_to_the_weights_in_the_scope_does_not_reach_the_average(trained, equal):
    module, _, raw, averages = trained
    with module.ema_scope(), torch.no_grad():
        for p in module.parameters():
            p.zero_()
    assert equal(weights(module), raw)
    with module.ema_scope():
        assert equal(weights(module), averages["0.5"])


def test_an_unknown_average_is_a_users_error(trained, equal):
    module, _, raw, _ = trained
    with pytest.raises(UserError, match=r"no average '0\.999', only 0\.5, 0\.9"), module.ema_scope("0.999"):
        pass
    assert equal(weights(module), raw)


def test_without_averages_the_scope_changes_nothing(trainer, model, data, equal):
    module = model()
    trainer(2, EMA([])).fit(module, data())
    raw = weights(module)
    with module.ema_scope():
        assert equal(weights(module), raw)


class Saver(Callback):
    """Notes what validation and test see, and writes a checkpoint in their middle."""

    def __init__(self, path=None) -> None:
        self.path, self.during = path, []

    def on_validation_batch_start(self, trainer, module, *args):
        self.during.append(weights(module))
        if self.path is not None:
            trainer.save_checkpoint(self.path)

    on_test_batch_start = on_validation_batch_start

    def on_predict_batch_start(self, trainer, module, *args):
        self.during.append(weights(module))


def test_validation_inside_fit_uses_the_average_and_training_goes_on_with_the_raw_weights(trainer, model, data, equal):
    plain = model()
    trainer(6).fit(plain, data())
    module, ema, saver, trail = model(), EMA([0.9], Constant()), Saver(), Trail()
    trainer(6, ema, saver, trail, val_every=3).fit(module, data())
    assert equal(weights(module), weights(plain))
    shares = [0.9**3, *(0.1 * 0.9 ** (3 - k) for k in (1, 2, 3))]
    assert len(saver.during) == 2
    assert_close(saver.during[0], weighted(trail.seen[:4], shares))
    assert equal(saver.during[1], average(ema, module))


def test_a_checkpoint_written_during_validation_holds_the_raw_weights(trainer, model, data, tmp_path, equal):
    module, ema, saver = model(), EMA([0.5, 0.9]), Saver(tmp_path / "during.ckpt")
    trainer(3, ema, saver, val_every=3).fit(module, data())
    checkpoint = torch.load(saver.path, weights_only=True)
    assert equal(checkpoint["state_dict"], module.state_dict())
    assert not equal(saver.during[0], weights(module))
    averages = checkpoint[CHECKPOINT_KEY]["averages"]["weights"]
    assert averages.keys() == {"0.5", "0.9"} and equal(averages["0.5"], saver.during[0])


def test_a_weights_only_checkpoint_holds_the_averages(trainer, model, data, tmp_path, equal):
    module, ema = model(), EMA([0.5, 0.9])
    fitted = trainer(3, ema)
    fitted.fit(module, data())
    fitted.save_checkpoint(tmp_path / "w.ckpt", weights_only=True)
    checkpoint = torch.load(tmp_path / "w.ckpt", weights_only=True)
    assert "optimizer_states" not in checkpoint and checkpoint[CHECKPOINT_KEY]["averages"]["updates"] == 3
    for name, stored in checkpoint[CHECKPOINT_KEY]["averages"]["weights"].items():
        assert equal(stored, average(ema, module, name))


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
@pytest.mark.parametrize("weights_only", [False, True])
def test_evaluation_of_a_checkpoint_uses_its_average(trainer, model, data, tmp_path, equal, verb, weights_only):
    module, ema, path = model(), EMA([0.5]), tmp_path / "end.ckpt"
    fitted = trainer(3, ema, val_every=100)
    fitted.fit(module, data())
    fitted.save_checkpoint(path, weights_only=weights_only)
    expected, raw = average(ema, module), weights(module)

    saver, again = Saver(), EMA([0.5])
    for used, of in ((trainer(3, again, saver, val_every=3), model()), (fitted, module)):  # anew, and fit then test
        if used is fitted:
            fitted.callbacks.append(saver)
        getattr(used, verb)(of, datamodule=data(), ckpt_path=str(path))
        assert equal(saver.during.pop(), expected)
        assert equal(weights(of), raw)


def test_an_interrupted_validation_restores_the_raw_weights(trainer, model, data, equal):
    class Stop(Callback):
        def on_validation_batch_start(self, *args):
            raise ZeroDivisionError

    module, trail = model(), Trail()
    with pytest.raises(ZeroDivisionError):
        trainer(3, EMA([0.5]), Stop(), trail, val_every=2).fit(module, data())
    assert equal(weights(module), trail.seen[-1])


def optimizer_state(trainer) -> dict[str, torch.Tensor]:
    state = trainer.optimizers[0].state_dict()["state"]
    return {f"{i}.{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()}


@pytest.mark.parametrize("micro, cut", [(None, 3), (2, 3), (None, 1)])
@pytest.mark.parametrize("profile", [Constant(), WarmUp(2.0), Power()], ids=lambda profile: type(profile).__name__)
def test_a_resumed_run_is_the_run_bit_for_bit(trainer, model, data, tmp_path, equal, micro, cut, profile):
    decays = [0.25, 0.125]

    def run(steps, root, path=None):
        module, ema = model(), EMA(decays, profile)
        used = trainer(steps, ema, Checkpoints(1), root=root, val_every=2)
        used.fit(module, data(micro_batch_size=micro), ckpt_path=path)
        return module, ema, used

    whole, whole_ema, whole_trainer = run(6, tmp_path / "whole")
    run(cut, tmp_path / "parts")
    resumed, ema, used = run(6, tmp_path / "parts", str(tmp_path / f"parts/checkpoints/step_{cut:08d}.ckpt"))
    assert used.global_step == 6 and ema.updates == whole_ema.updates == 6
    assert equal(resumed.state_dict(), whole.state_dict())
    for decay in decays:
        assert equal(average(ema, resumed, str(decay)), average(whole_ema, whole, str(decay)))
    assert equal(optimizer_state(used), optimizer_state(whole_trainer))
    assert len(optimizer_state(used)) > 0


def test_a_decay_that_the_checkpoint_lacks_starts_at_its_weights(trainer, model, data, tmp_path, equal):
    module, first, path = model(), EMA([0.5], Constant()), tmp_path / "end.ckpt"
    fitted = trainer(3, first)
    fitted.fit(module, data())
    fitted.save_checkpoint(path)
    raw = weights(module)

    resumed, ema, trail = model(), EMA([0.9, 0.5], Constant()), Trail()
    trainer(4, ema, trail).fit(resumed, data(), ckpt_path=str(path))
    last = weights(resumed)
    assert_close(average(ema, resumed, "0.9"), {k: 0.9 * raw[k].double() + 0.1 * last[k].double() for k in raw})


def test_the_shadow_is_float32_where_the_parameters_are_not(model):
    module, ema = model(), EMA([0.999], Constant())
    module.configure_model()
    module.bfloat16()
    ema._prepare(module)
    step = type("Trainer", (), {"global_step": 0})()
    start = average(ema, module)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    for step.global_step in range(1, 201):  # each update is below bfloat16's resolution of the shadow
        ema.on_train_batch_end(step, module)
    moved = average(ema, module)
    expected = {name: start[name].double() + (1 - 0.999**200) for name in start}
    assert_close(moved, expected, atol=2e-2, rtol=1e-2)


def test_averages_of_bfloat16_weights_are_float32():
    """A step of 0.001 of what is left is below the resolution of bfloat16: the average would stand still."""
    module, ema, at = (
        torch.nn.Linear(3, 2, dtype=torch.bfloat16),
        EMA([0.999], Constant()),
        SimpleNamespace(global_step=0),
    )
    begin = {name: p.detach().float().clone() for name, p in module.named_parameters()}
    ema.on_train_start(at, module)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(1.0)
    moved = {name: p.detach().float() for name, p in module.named_parameters()}
    for at.global_step in range(1, 101):
        ema.on_train_batch_end(at, module)
    for name, shadow in ema._shadows["0.999"].items():
        expected = moved[name] + 0.999**100 * (begin[name] - moved[name])
        torch.testing.assert_close(shadow, expected, rtol=1e-5, atol=1e-5)
    with ema.scope(module):
        assert all(torch.equal(p, ema._shadows["0.999"][name].bfloat16()) for name, p in module.named_parameters())
