"""The verb that makes the shipped weights, and what it refuses to write."""

import hashlib
import json
import os
import shutil
from importlib import resources

import pytest
import torch

from datamodules import Digits
from lightning_gen.errors import UserError
from lightning_gen.evaluation import train_extractor as verb
from lightning_gen.evaluation.extractors import ShippedClassifier
from lightning_gen.evaluation.gate import Ladder
from lightning_gen.evaluation.train_extractor import augment, extractor, train_extractor
from lightning_gen.random_source import GeneratorSource

QUICK = {"steps": 60, "batch_size": 64, "min_accuracy": 0.5}
"""Enough to pass the gate, and no more."""


def test_the_command_repeats_itself_and_its_weights_load(tmp_path):
    state = torch.get_rng_state()
    paths = [extractor("datamodules.Digits", "small", tmp_path / run, 3, **QUICK) for run in "ab"]
    assert torch.equal(torch.get_rng_state(), state)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert digests[0] == digests[1]
    assert {file.name for file in (tmp_path / "a").iterdir()} == {"small.safetensors", "small.json"}
    record = json.loads(paths[0].with_suffix(".json").read_text())
    assert record["digest"] == ShippedClassifier("small", str(tmp_path / "a")).digest
    assert record["gate"].keys() == {"real", "noise", "blur", "missing_classes"}
    assert record["accuracy"]["test"] >= 0.5


def test_a_failed_write_leaves_the_old_weights(tmp_path, monkeypatch):
    shutil.copy(str(resources.files("lightning_gen.evaluation") / "weights" / "digits.safetensors"), tmp_path)
    before = (tmp_path / "digits.safetensors").read_bytes()

    def interrupted(descriptor):
        os.ftruncate(descriptor, 100)
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        extractor("datamodules.Digits", "digits", tmp_path, **QUICK)
    assert (tmp_path / "digits.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def old(tmp_path):
    """Weights that lie where the verb would write."""
    for suffix in (".safetensors", ".json"):
        shutil.copy(str(resources.files("lightning_gen.evaluation") / "weights" / f"digits{suffix}"), tmp_path)
    return {file: file.read_bytes() for file in tmp_path.iterdir()}


def test_a_classifier_that_knows_too_little_is_not_written(old, tmp_path):
    with pytest.raises(
        UserError, match=r"recognises 0\.\d+ of the test images, --min_accuracy asks for 0.95"
    ) as caught:
        extractor("datamodules.Digits", "digits", tmp_path, steps=2, batch_size=8)
    assert "\n" not in str(caught.value)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == old


@pytest.mark.parametrize("damage", ["noise", "blur", "missing_classes"])
def test_a_distance_that_does_not_rise_is_not_written(old, tmp_path, monkeypatch, damage):
    found = {name: Ladder((0.0, 1.0), (1.0, 2.0), 9) for name in ("noise", "blur", "missing_classes")}
    monkeypatch.setattr(verb, "ladders", lambda *args, **kwargs: {**found, damage: Ladder((0.0, 1.0), (2.0, 2.0), 9)})
    words = damage.replace("_", " ")
    with pytest.raises(UserError, match=rf"FD\[digits\] does not rise with {words} \(2, 2\): nothing was written"):
        extractor("datamodules.Digits", "digits", tmp_path, steps=2, batch_size=8, min_accuracy=0.0)
    assert {file: file.read_bytes() for file in tmp_path.iterdir()} == old


def test_training_depends_on_its_own_seed_alone():
    examples = Digits().split("extractor")
    digests = []
    for surroundings, seed in [(0, 5), (1, 5), (1, 6)]:
        torch.manual_seed(surroundings)
        digests.append(train_extractor(examples.x * 15, examples.y, 10, seed, steps=2, batch_size=32).digest())
    assert digests[0] == digests[1] != digests[2]


def test_augmentation_is_small_and_its_own_for_each_image():
    image = torch.full((1, 8, 8), -1.0)
    image[:, 3:5, 3:5] = 1.0
    moved = augment(image.repeat(500, 1, 1, 1), GeneratorSource(0))
    weights = moved.clamp(-1, 1) + 1
    axis = torch.arange(8.0) - 3.5
    centres = torch.stack([(weights.sum(d) * axis).sum((1, 2)) / weights.sum((1, 2, 3)) for d in (2, 3)])
    assert (centres.abs() < 2).all()
    assert (centres.std(1) > 0.2).all()
    assert (centres.mean(1).abs() < 0.1).all()


@pytest.mark.parametrize("path", ["datamodules.NoSuchData", "nowhere.Digits", "Digits"])
def test_a_data_set_that_cannot_be_imported_is_refused(path, tmp_path):
    with pytest.raises(UserError, match=path):
        extractor(path, out=tmp_path)


def test_data_without_the_three_splits_train_no_classifier(tmp_path, monkeypatch):
    def load(self):
        return {name: split for name, split in whole(self).items() if name != "real"}

    whole = Digits.load
    monkeypatch.setattr(Digits, "load", load)
    with pytest.raises(UserError, match="no split 'real'"):
        extractor("datamodules.Digits", out=tmp_path)


def test_real_vectors_train_no_classifier(tmp_path):
    with pytest.raises(UserError, match="no integer images"):
        extractor("datamodules.TwoMoons", out=tmp_path)
