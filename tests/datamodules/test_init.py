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
SMALL = {"digits", "two_moons", "eight_gaussians", "checkerboard"}


def instantiate(path: Path) -> DataModule:
    parser = ArgumentParser()
    parser.add_subclass_arguments(DataModule, "data")
    return parser.instantiate(parser.parse_object({"data": str(path)})).data


def test_importing_the_package_imports_no_torch():
    code = "import sys, datamodules; sys.exit(any(m in sys.modules for m in ('torch', 'lightning', 'sklearn')))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_public_names_resolve_and_others_do_not():
    assert all(getattr(datamodules, name).__name__ == name for name in datamodules.__all__)
    assert set(datamodules.__all__) <= set(dir(datamodules))
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
    assert set(data.extractor) <= {"class_path", "init_args"}
    assert next(iter(data.train_dataloader())).x.shape[0] == data.batch_size
