"""lightning-gen impute: sheets, tensors and numbers of holes filled, for any run whose model can."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

import lightning_gen
from datamodules import BinaryDigits
from lightning_gen.__main__ import main
from lightning_gen.evaluation.impute import compared
from lightning_gen.pictures import NOTHING_YET
from lightning_gen.vae import PseudoGibbs

MINE = '''
from abc import ABC, abstractmethod

import torch

from datamodules.base import DataModule, Examples
from lightning_gen.errors import UserError
from lightning_gen.generative_module import GenerativeModule
from lightning_gen.powers import Imputation


class Wide(DataModule):
    """Images that are not square, and of which no two places look alike."""

    shape, levels = (3, 32, 40), 256

    def load(self):
        x = torch.randint(256, (12, *self.shape), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        return {"train": Examples(x[:4]), "val": Examples(x[4:7]), "test": Examples(x[7:])}


class Words(DataModule):
    shape, levels, symbols = (7,), 3, "abc"

    def load(self):
        x = torch.randint(3, (12, 7), generator=torch.Generator().manual_seed(1)).to(torch.uint8)
        return {"train": Examples(x[:4]), "val": Examples(x[4:7]), "test": Examples(x[7:])}


class Numbers(Words):
    symbols = None


class Points(Words):
    shape, levels, symbols = (2,), None, None

    def load(self):
        x = torch.randn(12, 2, generator=torch.Generator().manual_seed(1))
        return {"train": Examples(x[:4]), "val": Examples(x[4:7]), "test": Examples(x[7:])}


class Dull(GenerativeModule):
    def build(self):
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_loss(self, x, y=None):
        return {"loss": self.weight.square()}

    def sample(self, num, y=None, *, sampler=None, rng=None):
        raise UserError("no sample")


class Imputer(ABC):
    @abstractmethod
    def __call__(self, x, rng):
        """What stands in the holes."""


class Loaded(Imputer):
    """Dice that show at most `highest`."""

    def __init__(self, highest: int = 255) -> None:
        self.highest = highest

    def __call__(self, x, rng):
        return rng.uniform(x.shape).mul(self.highest + 1).to(x.dtype)


class Always(Imputer):
    def __init__(self, face: int) -> None:
        self.face = face

    def __call__(self, x, rng):
        return torch.full_like(x, self.face)


class Dice(Dull, Imputation):
    def __init__(self, shape: tuple[int, ...], levels: int | None, num_classes: int | None) -> None:
        super().__init__(shape, levels, num_classes)
        self.imputer = Loaded((levels or 2) - 1)

    def impute(self, x, mask, y=None, *, imputer=None, rng=None):
        return torch.where(mask, x, (imputer or self.imputer)(x, rng))
'''


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """runs(model, data): a run of one step of the user's own, made at the first call."""
    folder = tmp_path_factory.mktemp("impute")
    (folder / "dice_of_holes.py").write_text(MINE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))

        def function(model: str = "Dice", data: str = "Wide"):
            run = folder / f"{model}-{data}"
            if not run.exists():
                what = [
                    f"--model=dice_of_holes.{model}",
                    f"--data=dice_of_holes.{data}",
                    "--data.init_args.batch_size=4",
                ]
                how = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--samples.every_n_steps=0"]
                assert main(["fit", *what, *how, "--run", str(run)]) == 0
            return run

        yield function


def imputed(run, out, *args):
    """(what the JSON says, what the .pt holds, the names of the files)."""
    assert main(["impute", str(run), f"--out={out}", "--device=cpu", *args]) == 0
    found = json.loads((out / "imputations.json").read_text())
    return found, torch.load(out / "imputations.pt", weights_only=True), {file.name for file in out.iterdir()}


def test_a_row_is_the_example_its_holes_and_its_fillings_nothing_turned_over(runs, tmp_path, capsys):
    run = runs()
    found, tensors, names = imputed(
        run, tmp_path / "new", "--num=3", "--fillings=2", "--mask=LeftHalf", "--weights=raw"
    )
    said = capsys.readouterr().out.splitlines()
    assert said[-1] == str(tmp_path / "new") and said[-2].startswith("accuracy ")
    assert names == {"imputations.png", "imputations.pt", "imputations.json"}

    x, known, fillings = (tensors[name] for name in ("x", "known", "fillings"))
    test = torch.randint(256, (12, 3, 32, 40), generator=torch.Generator().manual_seed(1)).to(torch.uint8)[7:]
    assert torch.equal(x, test[:3]) and fillings.shape == (3, 2, 3, 32, 40) and fillings.dtype == torch.uint8
    assert known[..., 20:].all() and not known[..., :20].any()
    assert torch.equal(fillings[..., 20:], x[:, None, ..., 20:].expand(-1, 2, -1, -1, -1))

    blue = torch.tensor(NOTHING_YET, dtype=torch.uint8)[:, None, None]
    picture = torch.from_numpy(np.array(Image.open(tmp_path / "new" / "imputations.png"))).permute(2, 0, 1)
    assert picture.shape == (3, 3 * 34 + 2, 4 * 42 + 2)
    for i in range(3):
        for k, image in enumerate([x[i], torch.where(known[i], x[i], blue), *fillings[i]]):
            assert torch.equal(picture[:, 2 + 34 * i : 34 + 34 * i, 2 + 42 * k : 42 + 42 * k], image)

    expected = {
        "run": "Dice-Wide",
        "model": "Dice",
        "weights": "raw",
        "split": "test",
        "num": 3,
        "fillings": 2,
        "seed": 0,
    }
    assert expected.items() <= found["settings"].items()
    assert found["settings"]["mask"] == {"class_path": "lightning_gen.evaluation.holes.LeftHalf", "init_args": {}}
    assert found["settings"]["imputer"] == {"class_path": "dice_of_holes.Loaded", "init_args": {"highest": 255}}


def test_the_numbers_are_those_computed_by_hand():
    x = torch.tensor([[1, 2, 3], [4, 5, 6]], dtype=torch.uint8)
    known = torch.tensor([[True, False, False], [True, True, False]])
    fillings = torch.tensor([[[1, 2, 5], [1, 0, 3]], [[4, 5, 6], [4, 5, 16]]], dtype=torch.uint8)
    # holes: 2 (2, 0), 3 (5, 3), 6 (6, 16)
    assert compared(x, known, fillings) == {
        "accuracy": pytest.approx(3 / 6), "accuracy_n": 6,
        "mean_squared_error": pytest.approx((0 + 4 + 4 + 0 + 0 + 100) / 6), "mean_squared_error_n": 6,
        "mean_squared_error_of_mean": pytest.approx((1 + 1 + 25) / 3), "mean_squared_error_of_mean_n": 3,
    }  # fmt: skip
    assert compared(x, known, fillings, quantities=False).keys() == {"accuracy", "accuracy_n"}
    assert "accuracy" not in compared(x.float(), known, fillings.float())


def test_files_follow_the_seed_and_not_the_batch(runs, tmp_path):
    files = {}
    for name, args in {"a": [], "again": [], "b": ["--batch_size=3"], "c": ["--seed=1"]}.items():
        imputed(runs(), tmp_path / name, "--num=4", "--mask=Random", "--mask.share=0.4", *args)
        files[name] = {file.name: file.read_bytes() for file in (tmp_path / name).iterdir()}
    assert files["a"] == files["again"]
    assert all(files["a"][name] == files["b"][name] for name in ("imputations.png", "imputations.pt"))
    known = [torch.load(tmp_path / name / "imputations.pt")["known"] for name in "ac"]
    assert not torch.equal(*known) and all((each.flatten(2).sum(2) == 768).all() for each in known)


def test_the_imputer_is_changed_in_part_or_whole(runs, tmp_path):
    found, tensors, _ = imputed(runs(), tmp_path, "--imputer.highest=7")
    assert found["settings"]["imputer"]["init_args"] == {"highest": 7}
    holes = ~tensors["known"][:, None].expand_as(tensors["fillings"])
    assert tensors["fillings"][holes].unique().tolist() == [*range(8)]
    found, tensors, _ = imputed(runs(), tmp_path, "--imputer=dice_of_holes.Always", "--imputer.face=9")
    assert found["settings"]["imputer"]["class_path"] == "dice_of_holes.Always"
    assert tensors["fillings"][holes].unique().tolist() == [9]


def test_text_is_shown_as_text_and_has_no_squared_error(runs, tmp_path):
    found, tensors, names = imputed(runs(data="Words"), tmp_path, "--num=2", "--fillings=3")
    assert names == {"imputations.txt", "imputations.pt", "imputations.json"}
    assert found["metrics"].keys() == {"accuracy", "accuracy_n"} and found["metrics"]["accuracy_n"] == 2 * 3 * 3
    paragraphs = (tmp_path / "imputations.txt").read_text().rstrip("\n").split("\n\n")
    assert [len(each.split("\n")) for each in paragraphs] == [5, 5]
    for x, fillings, paragraph in zip(tensors["x"], tensors["fillings"], paragraphs):
        whole, holes, *ways = paragraph.split("\n")
        words = ["".join("abc"[value] for value in row) for row in [x, *fillings]]
        assert [whole, *ways] == words
        assert holes[:4] == whole[:4] and len(set(holes[4:])) == 1 and not set(holes[4:]) & set("abc")


@pytest.mark.parametrize("data", ["Numbers", "Points"])
def test_what_cannot_be_shown_is_kept_as_tensors_and_an_older_sheet_goes(runs, tmp_path, data):
    imputed(runs(), tmp_path)
    found, tensors, names = imputed(runs(data=data), tmp_path)
    assert names == {"imputations.pt", "imputations.json"}
    assert ("accuracy" in found["metrics"]) == (data == "Numbers") and "mean_squared_error" in found["metrics"]
    assert torch.equal(tensors["fillings"][:, 0, :1], tensors["x"][:, :1])


def test_a_family_of_the_package_is_asked_as_from_python(tmp_path):
    networks = [
        f"--model.init_args.{part}={{class_path: lightning_gen.networks.PlainMLP, init_args: {{widths: [8]}}}}"
        for part in ("encoder", "decoder")
    ]
    what = ["--model=VAE", *networks, "--model.init_args.observation=Bernoulli", "--data=datamodules.BinaryDigits"]
    how = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--samples.every_n_steps=0"]
    assert main(["fit", *what, *how, "--run", str(tmp_path / "run")]) == 0
    found, tensors, _ = imputed(tmp_path / "run", tmp_path / "out", "--imputer.steps=3", "--fillings=1")
    assert found["settings"]["imputer"]["init_args"] == {"steps": 3, "mode": False}
    module, x = lightning_gen.load(tmp_path / "run"), BinaryDigits().split("test").x[:16]
    assert torch.equal(tensors["x"], x) and not torch.equal(tensors["fillings"][:, 0], x)

    (file,) = (tmp_path / "run" / "checkpoints").glob("*.ckpt")  # a bare checkpoint, its own folder by default
    bare = tmp_path / "bare" / "model.ckpt"
    bare.parent.mkdir()
    file.rename(bare)
    assert main(["impute", str(bare), "--device=cpu", "--imputer.steps=3", "--fillings=1"]) == 0
    again = torch.load(tmp_path / "bare" / "imputations" / "imputations.pt")
    assert torch.equal(again["fillings"], tensors["fillings"])
    module.imputer = PseudoGibbs(3)
    assert module.impute(x, tensors["known"])[tensors["known"]].equal(x[tensors["known"]])


@pytest.mark.parametrize(
    ("args", "word"),
    [(["--num=0"], "--num"), (["--fillings=0"], "--fillings"), (["--batch_size=0"], "--batch_size"),
     (["--split=nowhere"], "nowhere"), (["--weights=other"], "weights"), (["--mask=LowerHlaf"], "did you mean LowerHalf"),
     (["--mask.share=0.5"], "--mask Random"), (["--mask=Random", "--mask.share=2"], "at most 1"),
     (["--mask=Random", "--mask.share=0.0001"], "leaves nothing"), (["--imputer.highset=3"], "highset"),
     (["--imputer=dice_of_holes.Wide"], "Wide")],
)  # fmt: skip
def test_what_cannot_be_done_is_refused(runs, tmp_path, capsys, args, word):
    run = runs()
    capsys.readouterr()
    assert main(["impute", str(run), *args, f"--out={tmp_path / 'out'}", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1 and not (tmp_path / "out").exists()


def test_a_family_without_the_power_is_refused(runs, tmp_path, capsys):
    run = runs("Dull")
    capsys.readouterr()
    assert main(["impute", str(run), f"--out={tmp_path / 'out'}", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert "Dull cannot fill holes" in error and error.count("\n") == 1 and not (tmp_path / "out").exists()
