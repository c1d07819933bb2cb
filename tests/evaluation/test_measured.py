"""The files of an evaluation: those that it has, and none of an earlier one's."""

import json

import pytest
import torch

from lightning_gen.evaluation import measured
from lightning_gen.evaluation.measured import Measured

IMAGES, SEQUENCES = torch.zeros(3, 1, 4, 4, dtype=torch.uint8), torch.tensor([[0, 1, 2], [2, 2, 1]])


def written(folder, samples, symbols=None) -> set[str]:
    path = Measured({"fd": 1.0}, {"seed": 0}, samples, symbols=symbols).write(folder, "a", 3)
    assert path == folder / "a.json" and json.loads(path.read_text())["metrics"] == {"fd": 1.0}
    return {file.name for file in folder.iterdir()}


def test_images_are_a_picture_text_is_text_and_sequences_of_nothing_to_be_read_have_neither(tmp_path):
    assert written(tmp_path / "images", IMAGES) == {"a.json", "a.png"}
    assert written(tmp_path / "text", SEQUENCES, "xyz") == {"a.json", "a.txt"}
    assert (tmp_path / "text" / "a.txt").read_text() == "xyz\nzzy\n"
    assert written(tmp_path / "sequences", SEQUENCES) == {"a.json"}
    assert written(tmp_path / "none", None, "xyz") == {"a.json"}
    assert written(tmp_path / "strange", IMAGES, "xyz") == {"a.json"}


def test_a_full_disk_leaves_the_earlier_evaluation_whole_and_nothing_else(tmp_path, small_files):
    written(tmp_path, IMAGES)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    for limit in (20, 100):  # the picture, the JSON
        with small_files(limit), pytest.raises(OSError):
            Measured({"fd": 2.0}, {"seed": 1}, IMAGES[:1]).write(tmp_path, "a", 3)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_two_evaluations_of_one_name_do_not_mix_their_files(tmp_path, monkeypatch):
    """The second is written as a whole while the first is half done."""
    one, other = Measured({"fd": 1.0}, {}, IMAGES), Measured({"fd": 2.0}, {}, SEQUENCES, symbols="xyz")
    sealed = measured.sealed

    def meanwhile(content):
        monkeypatch.setattr(measured, "sealed", sealed)
        other.write(tmp_path, "a", 3)
        assert {file.name for file in tmp_path.glob("a*")} == {"a.json", "a.txt"}
        return sealed(content)

    monkeypatch.setattr(measured, "sealed", meanwhile)
    one.write(tmp_path, "a", 3)
    assert {file.name for file in tmp_path.iterdir()} == {"a.json", "a.png"}
    assert json.loads((tmp_path / "a.json").read_text())["metrics"] == {"fd": 1.0}


def test_what_an_earlier_evaluation_showed_goes(tmp_path):
    assert written(tmp_path, IMAGES) == {"a.json", "a.png"}
    assert written(tmp_path, SEQUENCES, "xyz") == {"a.json", "a.txt"}
    assert written(tmp_path, None) == {"a.json"}
