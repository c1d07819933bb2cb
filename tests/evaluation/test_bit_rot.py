"""One bit that flips on the disk is noticed wherever it is read back: refused, passed over or made again, never used."""

import json
import shutil
from pathlib import Path

import pytest

from lightning_gen.__main__ import main
from lightning_gen.benchmark.evaluations import Evaluation
from lightning_gen.benchmark.measurement import Measurement
from lightning_gen.comparison.records import read_record
from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import ShippedClassifier

pytestmark = pytest.mark.usefixtures("standing")
EVALUATE = ["--device=cpu", "--num_samples=40"]


def flip(file: Path, share: float = 0.5) -> None:
    content = bytearray(file.read_bytes())
    content[int(share * len(content))] ^= 2
    file.write_bytes(content)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of a run with an evaluation."""
    if not (trained() / "evaluation" / "kept.json").exists():
        assert main(["evaluate", str(trained()), *EVALUATE, "--name=kept"]) == 0
    return shutil.copytree(trained(), tmp_path / "run")


def numbers(run: Path, name: str) -> dict:
    return json.loads((run / "evaluation" / f"{name}.json").read_text())["metrics"]


@pytest.mark.parametrize(
    "args",
    [
        ["evaluate", "{file}", *EVALUATE],
        ["sample", "{file}", "--num=2"],
        ["fit", "--config={run}/config.yaml", "--run=new", "--init_from={file}"],
        ["fit", "--config={run}/config.yaml", "--run=new", "--ckpt_path={file}"],
        ["test", "--config={run}/config.yaml", "--ckpt_path={file}"],
    ],
    ids=["evaluate", "sample", "init_from", "ckpt_path", "test"],
)
def test_a_checkpoint_that_is_named_is_refused_in_one_line(run, args, capsys):
    file = next((run / "checkpoints").iterdir())
    flip(file)
    assert main([arg.format(file=file, run=run) for arg in args]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and f"{file} cannot be read as a checkpoint, it is damaged" in error
    assert not Path("new").exists()


def test_features_of_the_reference_are_made_again(run, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_CACHE", str(tmp_path / "cache"))
    assert main(["evaluate", str(run), *EVALUATE]) == 0
    for file in sorted((tmp_path / "cache").rglob("*.npy")):
        flip(file, 0.99)
    with pytest.warns(UserWarning, match="is damaged: made again"):
        assert main(["evaluate", str(run), *EVALUATE, "--name=again"]) == 0
    assert numbers(run, "again") == numbers(run, "default") == numbers(run, "kept")


@pytest.mark.parametrize("ending", [".json", ".csv"])
def test_an_evaluation_is_refused_and_a_benchmark_measures_it_again(run, ending):
    made = Measurement(run / "evaluation", "kept", Evaluation({}, {}), "[]")
    made.close()
    assert made.done() and read_record(made.file).log_prob
    content = made.file.with_suffix(ending).read_text()
    at = content.index("." if ending == ".csv" else '"fd": ') + 6
    made.file.with_suffix(ending).write_text(content[:at] + ("1" if content[at] != "1" else "2") + content[at + 1 :])
    assert not made.done()
    with pytest.raises(UserError, match="damaged"):
        _ = read_record(made.file).log_prob


def test_an_extractors_weights_are_refused(tmp_path):
    from importlib import resources

    shipped = resources.files("lightning_gen.evaluation") / "weights"
    for file in ("digits.safetensors", "digits.json"):
        shutil.copy(str(shipped / file), tmp_path)
    assert ShippedClassifier("digits", str(tmp_path)).digest == ShippedClassifier().digest
    flip(tmp_path / "digits.safetensors", 0.9)
    with pytest.raises(UserError, match="they are damaged, their digest is not"):
        ShippedClassifier("digits", str(tmp_path))
