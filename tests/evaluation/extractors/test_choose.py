"""What --extractor means, in all the ways it can be written."""

from typing import Any

import pytest
import torch

import datamodules
from lightning_gen.calling import call
from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import (
    Extractor,
    ModuleFeatures,
    RawFeatures,
    ShippedClassifier,
    TrainedClassifier,
    choose,
)
from lightning_gen.specs import build

HOME = "lightning_gen.evaluation.extractors"
MNIST = {"class_path": f"{HOME}.ShippedClassifier", "init_args": {"name": "mnist"}}


def spec(kind, /, **init_args):
    return {"class_path": f"{HOME}.{kind}", "init_args": init_args}


def given(*args):
    """What a verb gets for these arguments of a command line."""

    def verb(extractor: str | dict[str, Any] | None = None):
        return extractor

    return call(verb, "verb", list(args))


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ([], None),
        (["--extractor", "mnist"], spec("ShippedClassifier", name="mnist")),
        (["--extractor", "inception"], spec("Inception")),
        (["--extractor", "inception-v3-compat"], spec("Inception")),
        (["--extractor", "raw"], spec("RawFeatures")),
        (["--extractor", "clip-vit-b-32"], spec("TorchFidelity", name="clip-vit-b-32")),
        (["--extractor", f"{HOME}.RawFeatures"], spec("RawFeatures")),
        (["--extractor.weights", "P"], spec("Inception", weights="P")),
        (["--extractor.class_path", "inception", "--extractor.weights", "P"], spec("Inception", weights="P")),
        (["--extractor.class_path", f"{HOME}.Inception", "--extractor.layer", "64"], spec("Inception", layer=64)),
        (["--extractor.class_path=vgg16", "--extractor.init_args.layer=fc2"], spec("TorchFidelity", name="vgg16", layer="fc2")),
        (['--extractor={"class_path": "raw", "init_args": {"num_features": 3}}'], spec("RawFeatures", num_features=3)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)  # fmt: skip
def test_a_command_line_means_the_obvious(args, expected):
    assert choose(given(*args)) == expected


def test_without_a_name_the_arguments_are_those_of_the_data_sets_own():
    assert choose(None, MNIST) == MNIST
    assert choose({"name": "digits"}, MNIST) == spec("ShippedClassifier", name="digits")
    early = {"class_path": "inception", "init_args": {"weights": "P", "layer": "64"}}
    assert choose({"layer": "192"}, early) == spec("Inception", weights="P", layer="192")
    assert choose({"class_path": "inception", "layer": 64}, MNIST) == spec("Inception", layer=64)
    assert choose(None, {"class_path": f"{HOME}.RawFeatures"}) == spec("RawFeatures")


@pytest.mark.parametrize(
    ("arguments", "default", "words"),
    [
        ({"weights": "F"}, MNIST, "the extractor 'mnist' takes no 'weights': name the extractor it is for"),
        ({"weights": "F", "layer": 3}, f"{HOME}.ShippedClassifier", "'digits' takes no 'layer': .* they are for"),
        ({"width": 3}, "raw", "'RawFeatures' takes no 'width': .* such as --extractor inception"),
    ],
)
def test_arguments_that_the_data_sets_own_does_not_take_are_refused(arguments, default, words):
    with pytest.raises(UserError, match=words):
        choose(arguments, default)


def test_modules_are_wrapped_and_told_the_shape():
    found = choose({"class_path": "torch.nn.Linear", "in_features": 8, "seed": 3}, MNIST, (1, 8, 8))
    arguments = {"in_features": 8}
    assert found == spec("ModuleFeatures", module="torch.nn.Linear", shape=[1, 8, 8], arguments=arguments, seed=3)
    assert choose({"class_path": "torch.nn.Flatten", "shape": [1]}, None, (1, 8, 8))["init_args"]["shape"] == [1]


def test_what_is_chosen_can_be_built():
    flat = build(choose("torch.nn.Flatten", None, (1, 8, 8)), Extractor)
    assert isinstance(flat, ModuleFeatures) and flat.num_features == 64
    made = build(
        choose({"class_path": "torchvision.models.squeezenet1_1", "num_classes": 5}, None, (3, 32, 32)), Extractor
    )
    assert made.num_features == 5 and made.name == "squeezenet1_1"
    assert isinstance(build(choose("digits"), Extractor), ShippedClassifier)
    assert isinstance(build(choose("raw"), Extractor), RawFeatures)


def test_a_layer_may_be_written_as_a_number(inception_weights):
    pytest.importorskip("torch_fidelity")
    found = choose(given("--extractor.weights", inception_weights, "--extractor.layer", "64"))
    assert build(found, Extractor).num_features == 64


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("incption", "no extractor 'incption', did you mean inception"),
        ("mnits", "did you mean mnist"),
        ("vgg-16", "did you mean vgg16"),
        ("zzz", "no extractor 'zzz': --extractor is .* digits, .*inception, .*mnist, .*raw"),
        ("torch.nn.Lineal", "cannot import torch.nn.Lineal"),
        ("nowhere.Net", "cannot import nowhere.Net"),
        ("torch.float32", "torch.float32 is neither an Extractor nor an nn.Module"),
    ],
)
def test_what_there_is_not_is_refused(name, words):
    with pytest.raises(UserError, match=words) as caught:
        choose(name)
    assert "\n" not in str(caught.value)


def test_the_data_sets_have_the_extractors_that_fit_them():
    inception = {"class_path": f"{HOME}.Inception", "init_args": {}}
    for name in ("CIFAR10", "FashionMNIST"):
        assert choose(None, getattr(datamodules, name).extractor) == inception
    assert datamodules.ImageFolder.extractor is None  # its splits may be smaller than the number of features
    for data in (datamodules.Digits, datamodules.MNIST):
        shipped = build(choose(None, data.extractor), Extractor)
        assert isinstance(shipped, TrainedClassifier)
        assert shipped(
            torch.zeros(2, *(data.native_shape if data is datamodules.MNIST else data.shape)), 256
        ).shape == (2, 64)
