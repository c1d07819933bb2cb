"""The arrows between the rooms run one way, and the mathematics can be read without Lightning."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FAMILIES = {"vae", "dae", "flow", "diffusion", "discrete_diffusion"}
FILES = sorted((ROOT / "lightning_gen").rglob("*.py"))


def imports(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_arrows(file):
    room = file.relative_to(ROOT / "lightning_gen").parts[0]
    for module in imports(file):
        parts = module.split(".")
        assert parts[0] != "datamodules", f"{file} imports datamodules"
        if parts[0] != "lightning_gen" or len(parts) < 2:
            continue
        if room in ("networks", "callbacks", "evaluation"):
            assert parts[1] not in FAMILIES, f"{file}: {room} imports the family {parts[1]}"
        if room in FAMILIES:
            assert parts[1] not in FAMILIES - {room}, f"{file}: one family imports another"
            assert parts[1] not in ("callbacks", "evaluation", "benchmark", "cli"), f"{file} imports {parts[1]}"


def test_mathematics_needs_no_lightning():
    modules = (
        "diffusion",
        "vae",
        "dae",
        "flow",
        "discrete_diffusion",
        "closed_forms",
        "networks",
        "random_source",
        "likelihood",
        "evaluation.pixels",
        "evaluation.frechet",
        "evaluation.manifold",
        "evaluation.extractors",
        "metrics_file",
        "run_directory",
    )
    imports = ", ".join(f"lightning_gen.{module}" for module in modules)
    code = f"import sys, {imports}; sys.exit('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_comparing_needs_no_torch():
    code = "import sys, lightning_gen.comparison.compare; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


def test_files_hold_one_idea():
    long = {str(f.relative_to(ROOT)): n for f in FILES if (n := f.read_text().count("\n")) > 350}
    assert not long


def test_the_package_costs_nothing():
    code = "import sys, lightning_gen; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
    import lightning_gen

    for name in lightning_gen.__all__:
        assert getattr(lightning_gen, name) is not None
    with pytest.raises(AttributeError):
        lightning_gen.nothing  # noqa: B018
