"""Samples are keyed by their index: the same file from any number of ranks."""

import pytest
import torch
from PIL import Image

from lightning_gen.__main__ import main
from lightning_gen.generative_module import CHECKPOINT_KEY
from lightning_gen.loading import read_checkpoint

pytestmark = pytest.mark.usefixtures("standing", "guarded")

TOSSED = '''
import torch
from coins_of_ranks import Coins
from lightning_gen.powers import Film


class Tossed(Coins, Film):
    """Coins that turn up one after the other."""

    def film(self, num, frames, y=None, *, sampler=None, rng=None):
        x = self.sample(num, y, sampler=sampler, rng=rng)
        return torch.stack([(x.float() * k / (frames - 1)).to(x.dtype) for k in range(frames)], 1)
'''


@pytest.fixture
def tossed(place):
    """A run of a family whose samples take shape step by step."""
    (place / "tossed.py").write_text(TOSSED)
    run = place / "Tossed"
    if not run.exists():
        what = ["--model", "tossed.Tossed", "--data", "coins_of_ranks.Few", "--data.init_args.batch_size=4"]
        how = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--samples.every_n_steps=0"]
        assert main(["fit", *what, *how, "--run", str(run)]) == 0
    return run


@pytest.mark.parametrize("num", [7, 2])
def test_samples_are_the_same_and_in_order_on_any_number_of_ranks(trained, tmp_path, num):
    drawn = []
    for ranks in (1, 2, 3):
        args = [f"--num={num}", f"--out={tmp_path}/{ranks}.pt", "--batch_size=2", "--device=cpu", f"--devices={ranks}"]
        assert main(["sample", str(trained()), *args]) == 0
        drawn.append(torch.load(tmp_path / f"{ranks}.pt"))
    assert len(drawn[0]) == num
    assert torch.equal(drawn[0], drawn[1]) and torch.equal(drawn[0], drawn[2])


def test_a_file_that_cannot_hold_samples_is_refused(trained, capsys):
    assert main(["sample", str(trained()), "--out=samples.jpg", "--devices=2"]) == 2
    assert "a .png" in capsys.readouterr().err


def test_a_full_disk_leaves_the_samples_that_were_there(trained, tmp_path, small_files, capsys):
    out = tmp_path / "a.pt"
    assert main(["sample", str(trained()), "--num=3", "--device=cpu", "--out", str(out)]) == 0
    before = out.read_bytes()
    capsys.readouterr()
    with small_files(900):
        assert main(["sample", str(trained()), "--num=900", "--device=cpu", "--out", str(out)]) == 2
    assert out.read_bytes() == before and [file.name for file in tmp_path.iterdir()] == ["a.pt"]
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize("size", [0, -1])
def test_a_batch_of_nothing_is_refused(trained, tmp_path, capsys, size):
    run, out = trained(), tmp_path / "samples.pt"
    capsys.readouterr()
    assert main(["sample", str(run), f"--batch_size={size}", f"--out={out}"]) == 2
    error = capsys.readouterr().err
    assert "--batch_size" in error and error.count("\n") == 1 and not out.exists()


def test_the_film_of_a_sample_ends_with_it_on_any_number_of_ranks_and_in_any_batch(tossed, tmp_path):
    given, films = ["--num=5", "--device=cpu"], []
    assert main(["sample", str(tossed), *given, f"--out={tmp_path}/x.pt"]) == 0
    for ranks, size in ((1, 2), (2, 3)):
        how = [*given, f"--devices={ranks}", f"--batch_size={size}"]
        assert main(["sample", str(tossed), *how, "--film=4", f"--out={tmp_path}/{ranks}.pt"]) == 0
        films.append(torch.load(tmp_path / f"{ranks}.pt"))
    assert films[0].shape == (5, 4, 1, 2, 2) and torch.equal(*films)
    assert torch.equal(films[0][:, -1], torch.load(tmp_path / "x.pt"))


def test_a_film_is_a_picture_beside_the_samples_or_moves(tossed, tmp_path, capsys):
    given = ["sample", str(tossed), "--num=3", "--film=4", "--device=cpu"]
    capsys.readouterr()
    assert main(given) == 0
    assert capsys.readouterr().out.strip() == str(tossed / "samples" / "film.png")
    with Image.open(tossed / "samples" / "film.png") as picture:
        assert picture.size == (4 * 34 + 2, 3 * 34 + 2)
    assert main([*given, f"--out={tmp_path}/film.gif"]) == 0
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames > 1


@pytest.mark.parametrize(
    ("args", "word"),
    [(["--film=1"], "at least 2"), (["--film=-3"], "at least 2"), (["--film=4", "--out=film.mp4"], ".gif"),
     (["--out=samples.gif"], ".png")],
)  # fmt: skip
def test_a_film_that_cannot_be_is_refused(tossed, capsys, args, word):
    capsys.readouterr()
    assert main(["sample", str(tossed), *args, "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


def test_a_family_without_steps_has_no_film(trained, tmp_path, capsys):
    run, out = trained(), tmp_path / "film.png"
    capsys.readouterr()
    assert main(["sample", str(run), "--film=4", f"--out={out}", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert "--film" in error and error.count("\n") == 1 and not out.exists()


TYPED = '''
import torch
from coins_of_ranks import Few
from datamodules.base import Examples
from tossed import Tossed


class Words(Few):
    """Sequences of four, of five levels; a text's where there are symbols."""

    shape, symbols, extractor = (4,), "ab c\\n", None

    def load(self):
        return {name: Examples(split.x.flatten(1)) for name, split in super().load().items()}


class Numbers(Words):
    symbols = None


class Typed(Tossed):
    """Types letter by letter."""

    def build(self):
        self.logits = torch.nn.Parameter(torch.linspace(-1, 1, 20).reshape(4, 5).sin())

    def film(self, num, frames, y=None, *, sampler=None, rng=None):
        x = self.sample(num, y, sampler=sampler, rng=rng).long()
        typed = [torch.arange(4) * (frames - 1) < 4 * k for k in range(frames)]
        return torch.stack([x.where(there, torch.tensor(-1)) for there in typed], 1)
'''


@pytest.fixture
def typed(place, standing):
    """typed(data): a run of sequences, made at the first call."""
    (place / "tossed.py").write_text(TOSSED)
    (place / "typed.py").write_text(TYPED)

    def function(data: str):
        run = place / data
        if not run.exists():
            what = ["--model", "typed.Typed", "--data", f"typed.{data}", "--data.init_args.batch_size=4"]
            how = ["--trainer.max_steps=1", "--trainer.accelerator=cpu", "--samples.every_n_steps=1", "--samples.num=3"]
            assert main(["fit", *what, *how, "--run", str(run)]) == 0
        return run

    return function


def test_text_is_printed_from_the_checkpoint_alone(typed, tmp_path, capsys):
    run, bare = typed("Words"), tmp_path / "run" / "checkpoints"
    bare.mkdir(parents=True)
    checkpoint = read_checkpoint(run)
    checkpoint[CHECKPOINT_KEY]["recipe"]["data"]["class_path"] = "typed.Gone"  # there are no such data any more
    torch.save(checkpoint, bare / "step_00000001.ckpt")
    given = ["--num=3", "--device=cpu"]
    capsys.readouterr()
    assert main(["sample", str(bare.parent), *given]) == 0
    written = bare.parent / "samples" / "sample.txt"
    assert capsys.readouterr().out.strip() == str(written)
    assert main(["sample", str(run), *given, f"--out={tmp_path}/x.pt"]) == 0
    expected = ["".join("ab c↵"[i] for i in row) for row in torch.load(tmp_path / "x.pt").tolist()]
    assert written.read_text(encoding="utf-8").splitlines() == expected and len(expected) == 3
    assert (run / "samples" / "step_00000001.txt").read_text(encoding="utf-8").count("\n") == 3  # of the training


def test_a_film_of_text_has_the_stations_of_each_sample_one_below_the_other(typed, tmp_path):
    run, given = typed("Words"), ["--num=2", "--device=cpu"]
    assert main(["sample", str(run), *given, "--film=3"]) == 0
    assert main(["sample", str(run), *given, f"--out={tmp_path}/x.txt"]) == 0
    paragraphs = (run / "samples" / "film.txt").read_text(encoding="utf-8").rstrip("\n").split("\n\n")
    for paragraph, line in zip(paragraphs, (tmp_path / "x.txt").read_text(encoding="utf-8").splitlines(), strict=True):
        assert paragraph.splitlines() == ["▁▁▁▁", f"{line[:2]}▁▁", line]


@pytest.mark.parametrize(
    ("data", "args", "word"),
    [("Words", ["--out=x.png"], ".txt or .pt"), ("Words", ["--film=3", "--out=x.gif"], ".txt or .pt"),
     ("Numbers", ["--out=x.txt"], ".png or .pt"), ("Numbers", [], r"no picture"),
     ("Numbers", ["--film=3", "--out=x.txt"], ".png or .gif or .pt")],
)  # fmt: skip
def test_text_has_no_picture_and_other_sequences_have_neither(typed, capsys, data, args, word):
    run = typed(data)
    capsys.readouterr()
    assert main(["sample", str(run), *args, "--num=2", "--device=cpu"]) == 2
    error = capsys.readouterr().err
    assert word in error and error.count("\n") == 1


def test_sequences_without_symbols_are_a_tensor(typed, tmp_path):
    assert main(["sample", str(typed("Numbers")), "--num=2", "--device=cpu", f"--out={tmp_path}/x.pt"]) == 0
    assert torch.load(tmp_path / "x.pt").shape == (2, 4)


@pytest.mark.parametrize(("data", "name"), [("Words", "bits/character"), ("Numbers", "bits/dim")])
def test_sequences_are_evaluated_by_their_likelihood_and_text_is_shown(typed, capsys, data, name):
    run = typed(data)
    capsys.readouterr()
    assert main(["evaluate", str(run), "--device=cpu"]) == 0
    out = capsys.readouterr().out
    assert f"{name} " in out and "nats (elbo)" in out
    made = {file.suffix for file in (run / "evaluation").glob("default.*")}
    assert made == {".json", ".csv"} | ({".txt"} if data == "Words" else set())
