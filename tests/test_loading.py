"""Models rebuilt from a run directory or a checkpoint alone."""

import shutil
import warnings

import pytest
import torch

import lightning_gen
from datamodules.toy import TwoMoons
from lightning_gen.callbacks import EMA, Checkpoints
from lightning_gen.callbacks.ema import Constant
from lightning_gen.diffusion import GaussianDiffusion
from lightning_gen.errors import UserError
from lightning_gen.generative_module import CHECKPOINT_KEY, GenerativeModule
from lightning_gen.loading import folder_of, from_checkpoint, load, load_data, read_checkpoint
from lightning_gen.run_directory import find_checkpoint
from lightning_gen.specs import build

RECIPE = {
    "seed": 11,
    "model": {
        "class_path": "lightning_gen.diffusion.GaussianDiffusion",
        "init_args": {
            "network": {"class_path": "lightning_gen.networks.mlp.MLP", "init_args": {"width": 4, "depth": 1}},
            "schedule": {"class_path": "lightning_gen.diffusion.LinearLogSNR", "init_args": {"logsnr_min": -5.0}},
            "sampler": {"class_path": "lightning_gen.diffusion.DiffusionSampler", "init_args": {"steps": 3}},
            "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.5}},
            "label_dropout": 0.25,
        },
    },
    "data": {"class_path": "datamodules.toy.TwoMoons", "init_args": {"num_train": 32, "num_val": 8, "batch_size": 8}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(run directory, the trained module, its averages): four steps, a checkpoint every two."""
    from lightning.pytorch import LightningDataModule, Trainer

    folder = tmp_path_factory.mktemp("run")
    data = build(RECIPE["data"], LightningDataModule)
    given = {"shape": list(data.shape), "levels": data.levels, "num_classes": data.num_classes}
    module = build(RECIPE["model"], GenerativeModule, **given)
    module.recipe, module.seed = RECIPE, RECIPE["seed"]
    ema = EMA([0.5, 0.9], Constant())
    quiet = dict(accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False)
    steps = dict(max_steps=4, max_epochs=-1, limit_val_batches=0, default_root_dir=folder)
    Trainer(callbacks=[ema, Checkpoints(2)], **quiet, **steps).fit(module, data)
    averages = {}
    for name in ("0.5", "0.9"):
        with module.ema_scope(name):
            averages[name] = {key: value.clone() for key, value in module.state_dict().items()}
    return folder, module.eval(), averages


@pytest.mark.parametrize("bare", [False, True], ids=["run directory", "bare checkpoint"])
@pytest.mark.parametrize(
    "weights, holds", [("ema", "ema:0.5"), ("ema:0.5", "ema:0.5"), ("ema:0.9", "ema:0.9"), ("raw", "raw")]
)
def test_the_weights_are_those_asked_for(run, tmp_path, equal, bare, weights, holds):
    folder, trained, averages = run
    path = folder
    if bare:
        path = tmp_path / "anything.pt"
        shutil.copy(find_checkpoint(folder), path)
    module = load(path, weights)
    expected = averages[holds[4:]] if holds != "raw" else trained.state_dict()
    assert equal(module.state_dict(), expected) and module.weights == holds
    others = [trained.state_dict(), *averages.values()]
    assert sum(equal(module.state_dict(), other) for other in others) == 1  # they are three different ones


def test_ema_is_the_default_and_the_package_offers_it(run, equal):
    assert equal(lightning_gen.load(run[0]).state_dict(), run[2]["0.5"])
    assert equal(lightning_gen.load(str(run[0])).state_dict(), run[2]["0.5"])


def test_the_model_is_the_one_that_was_trained(run):
    folder, trained, _ = run
    module = load(folder, "raw")
    assert type(module) is GaussianDiffusion and not module.training
    assert not any(part.training for part in module.modules())
    assert (module.shape, module.levels, module.num_classes) == ((2,), None, 2)
    assert (module.label_dropout, module.sampler.steps, module.schedule.logsnr_min) == (0.25, 3, -5.0)
    assert module.seed == 11 and module.recipe == RECIPE
    assert torch.equal(module.sample(70), trained.sample(70))
    x = trained.sample(5)
    assert torch.equal(module.log_likelihood(x).log_prob, trained.log_likelihood(x).log_prob)


def test_what_levels_stand_for_is_in_the_checkpoint_and_older_ones_do_not_say(run, tmp_path):
    checkpoint = read_checkpoint(run[0])
    assert from_checkpoint(checkpoint, "raw").symbols is None
    module = from_checkpoint(checkpoint, "raw")
    module.symbols = "ab\n"
    saved = {}
    module.on_save_checkpoint(saved)
    torch.save({**checkpoint, **saved}, tmp_path / "of_text.ckpt")
    assert load(tmp_path / "of_text.ckpt", "raw").symbols == "ab\n"
    del checkpoint[CHECKPOINT_KEY]["symbols"]
    assert from_checkpoint(checkpoint, "raw").symbols is None


def test_a_loaded_model_trains_on_and_its_checkpoint_loads_again(run, trainer, tmp_path, equal):
    module = load(run[0], "raw")
    used = trainer(2, Checkpoints(2))
    used.fit(module.train(), load_data(read_checkpoint(run[0])))
    assert equal(load(tmp_path, "raw").state_dict(), module.state_dict())


def test_the_file_may_go_once_the_model_is_loaded(run, tmp_path, equal):
    path = tmp_path / "c.ckpt"
    shutil.copy(find_checkpoint(run[0]), path)
    module = load(path, "raw")
    with open(path, "rb+") as file:  # the file was mapped; what was read must not change with it
        file.write(bytes(path.stat().st_size))
    assert equal(module.state_dict(), run[1].state_dict())


def test_the_newest_checkpoint_is_taken(run, tmp_path, equal):
    older = run[0] / "checkpoints" / "step_00000002.ckpt"
    assert not equal(load(older, "raw").state_dict(), load(run[0], "raw").state_dict())


def test_the_data_come_with_the_checkpoint(run):
    data = load_data(read_checkpoint(run[0]))
    assert type(data) is TwoMoons and data.batch_size == 8 and len(data.split("train")) == 32


def test_the_run_of_a_path(run):
    assert folder_of(run[0]) == run[0] == folder_of(find_checkpoint(run[0]))


def changed(run, tmp_path, change):
    """A checkpoint like the run's, but for what `change` does to it."""
    checkpoint = torch.load(find_checkpoint(run[0]), weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, tmp_path / "changed.ckpt")
    return tmp_path / "changed.ckpt"


@pytest.mark.parametrize("weights", ["ema:0.999", "ema:0.50"])
def test_an_average_that_is_not_there_is_a_users_error(run, weights):
    with pytest.raises(UserError, match=r"holds no average '.*', only 0\.5, 0\.9"):
        load(run[0], weights)


@pytest.mark.parametrize("weights", ["EMA", "0.9", "", "swa", "raw:1", "emas:0.9"])
def test_weights_of_an_unknown_name_are_a_users_error(run, weights):
    with pytest.raises(UserError, match="weights are 'raw', 'ema' or 'ema:DECAY'"):
        load(run[0], weights)


@pytest.mark.parametrize(
    "change",
    [lambda c: c[CHECKPOINT_KEY].pop("averages"), lambda c: c[CHECKPOINT_KEY]["averages"].update(weights={})],
    ids=["no callback", "no decays"],
)
def test_without_averages_the_raw_weights_are_taken_and_a_warning_says_so(run, tmp_path, equal, change):
    path = changed(run, tmp_path, change)
    said = r"changed\.ckpt holds no averaged weights; its raw weights are used"
    with pytest.warns(UserWarning, match=said) as caught:
        module = load(path)
    assert caught[0].filename == __file__  # the warning points at who asked
    assert equal(module.state_dict(), run[1].state_dict()) and module.weights == "raw"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(path, "raw").weights == "raw"
    with pytest.raises(UserError, match="only raw weights"):
        load(path, "ema:0.5")


@pytest.mark.parametrize(
    "content",
    [{"state_dict": {}}, {CHECKPOINT_KEY: None}, {CHECKPOINT_KEY: {"schema": 1, "recipe": None, "data": {}}},
     torch.zeros(3), [1, 2], {CHECKPOINT_KEY: "text"}],
    ids=["of plain Lightning", "empty", "no recipe", "tensor", "list", "another's key"],
)  # fmt: skip
def test_a_foreign_checkpoint_is_a_users_error(tmp_path, content):
    torch.save(content, tmp_path / "foreign.ckpt")
    with pytest.raises(UserError, match=r"foreign\.ckpt does not say how to rebuild its model"):
        load(tmp_path / "foreign.ckpt")


def test_a_file_that_is_no_checkpoint_is_a_users_error(tmp_path):
    for content in (b"", b"text\n", bytes(1000)):
        (tmp_path / "file.ckpt").write_bytes(content)
        with pytest.raises(UserError, match=r"file\.ckpt cannot be read as a checkpoint"):
            load(tmp_path / "file.ckpt")


class Dangerous:
    def __reduce__(self):
        return print, ("executed",)


def test_a_file_that_would_execute_code_does_not(tmp_path, capsys):
    torch.save({CHECKPOINT_KEY: Dangerous()}, tmp_path / "evil.ckpt")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path / "evil.ckpt")
    assert "executed" not in capsys.readouterr().out


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_a_users_error(run, tmp_path, share):
    whole = find_checkpoint(run[0]).read_bytes()
    (tmp_path / "cut.ckpt").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"cut\.ckpt cannot be read as a checkpoint"):
        load(tmp_path / "cut.ckpt")


def test_a_schema_of_the_future_is_a_users_error(run, tmp_path):
    path = changed(run, tmp_path, lambda c: c[CHECKPOINT_KEY].update(schema=2))
    with pytest.raises(UserError, match="schema 2; this version reads up to 1"):
        load(path)


def test_a_model_whose_class_is_gone_is_a_users_error(run, tmp_path):
    def change(checkpoint):
        checkpoint[CHECKPOINT_KEY]["recipe"]["model"]["class_path"] = "their.own.Model"

    with pytest.raises(UserError, match=r"trained with their\.own\.Model, and there is no module 'their' here"):
        load(changed(run, tmp_path, change))


@pytest.mark.parametrize("change", [lambda s: s.pop(next(iter(s))), lambda s: s.update(extra=torch.zeros(1))])
def test_weights_that_do_not_fit_the_model_are_a_users_error(run, tmp_path, change):
    with pytest.raises(UserError, match=r"changed\.ckpt does not fit"):
        load(changed(run, tmp_path, lambda c: change(c["state_dict"])), "raw")


@pytest.mark.parametrize(
    ("change", "first", "more"),
    [
        (lambda s: [s.pop(key) for key in list(s)], "Missing key in state_dict: ", True),
        (
            lambda s: s.update({f"extra{i}" * 90: torch.zeros(1) for i in range(30)}),
            "Unexpected key in state_dict: ",
            29,
        ),
        (lambda s: s.update({key: torch.zeros(9, 9) for key in s}), "size mismatch for ", True),
        (lambda s: s.pop(next(iter(s))), "Missing key in state_dict: ", False),
    ],
    ids=["another architecture", "long names", "another width", "one"],
)
def test_of_many_mismatches_the_first_is_shown_and_the_others_are_counted(run, change, first, more):
    checkpoint = read_checkpoint(run[0])
    checkpoint["state_dict"] = dict(checkpoint["state_dict"])
    more = len(checkpoint["state_dict"]) - 1 if more is True else more
    change(checkpoint["state_dict"])
    with pytest.raises(UserError) as said:
        from_checkpoint(checkpoint, "raw", name="other.ckpt")
    reason = str(said.value).partition(" as it is now: ")[2]
    assert reason.startswith(first) and len(str(said.value)) < 300
    assert reason.endswith(f" ... and {more} more") if more else "more" not in reason


def test_an_average_of_what_the_model_lacks_names_it(run, tmp_path):
    path = changed(
        run, tmp_path, lambda c: c[CHECKPOINT_KEY]["averages"]["weights"]["0.5"].update(a_lost=torch.ones(1))
    )
    with pytest.raises(UserError, match="as it is now: .*'a_lost'"):
        load(path)


def test_a_path_that_means_no_checkpoint_is_a_users_error(tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError):
            load(path)
