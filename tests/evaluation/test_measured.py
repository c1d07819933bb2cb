"""The files of an evaluation: those that it has, and none of an earlier one's."""

import json

import torch

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


def test_what_an_earlier_evaluation_showed_goes(tmp_path):
    assert written(tmp_path, IMAGES) == {"a.json", "a.png"}
    assert written(tmp_path, SEQUENCES, "xyz") == {"a.json", "a.txt"}
    assert written(tmp_path, None) == {"a.json"}
