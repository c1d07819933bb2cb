"""The package is cheap to import, and every shipped data config is a data set that keeps its contract."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from jsonargparse import ArgumentParser

import datamodules
from datamodules import DataModule

ROOT = Path(datamodules.__file__).parents[1]
CONFIGS = sorted((ROOT / "configs" / "data").glob("*.yaml"))
SMALL = {"digits_binary", "digits", "two_moons", "eight_gaussians", "checkerboard", "text"}
PACKED = {"cifar10_packed"}


def instantiate(path: Path) -> DataModule:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DataModule, "data")
    return parser.instantiate(parser.parse_object({"data": str(path)})).data


def test_importing_the_package_imports_no_torch():
    code = "import sys, datamodules; sys.exit(any(m in sys.modules for m in ('torch', 'lightning', 'sklearn', 'PIL')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names_resolve_and_others_do_not():
    assert all(getattr(datamodules, name).__name__ == name for name in datamodules.__all__)
    assert set(datamodules.__all__) <= set(dir(datamodules))
    assert {"MNIST", "FashionMNIST", "CIFAR10", "ImageFolder", "ImageData"} <= set(datamodules.__all__)
    with pytest.raises(AttributeError):
        _ = datamodules.NoSuchDataSet


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem in SMALL], ids=lambda p: p.stem)
def test_a_shipped_config_is_a_data_set(path):
    data = instantiate(path)
    for name in ("train", "val", "test"):
        examples = data.split(name)
        assert examples.x.dtype == (torch.float32 if data.levels is None else torch.uint8)
        assert tuple(examples.x.shape[1:]) == data.shape
        if data.num_classes is None:
            assert examples.y is None
        else:
            assert examples.y.dtype == torch.int64
            assert set(examples.y.tolist()) == set(range(data.num_classes))
    assert set(data.extractor or {}) <= {"class_path", "init_args"} and (data.extractor is None) == (
        path.stem == "text"
    )
    assert len(data.symbols) == data.levels if path.stem == "text" else data.symbols is None
    assert next(iter(data.train_dataloader())).x.shape[0] == data.batch_size


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem not in SMALL | PACKED], ids=lambda p: p.stem)
def test_a_config_of_images_is_built_without_its_data(path, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_DATA", str(tmp_path))
    data = instantiate(path)
    binary = path.stem == "mnist_binary"
    assert data.levels == (2 if binary else 256) and (data.binarization is not None) == binary
    assert data.shape == ((1, 28, 28) if "mnist" in path.stem else (3, 32, 32))
    assert data.horizontal_flip == ("cifar" in path.stem)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.stem in PACKED], ids=lambda p: p.stem)
def test_a_config_of_a_pack_is_built_without_it(path, tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_DATA", str(tmp_path))
    data = instantiate(path)
    assert (data.levels, data.batch_size, data.num_workers) == (256, 128, 2)


def test_the_resolved_config_of_binary_images_builds_them_again():
    parser = ArgumentParser()
    parser.add_subclass_arguments(DataModule, "data")
    config = parser.parse_object({"data": str(ROOT / "configs" / "data" / "mnist_binary.yaml")})
    again = parser.instantiate(parser.parse_string(parser.dump(config))).data
    assert (again.levels, again.binarization.seed) == (2, 0)
