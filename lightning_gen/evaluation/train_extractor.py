"""The command that made the classifiers in `weights/`: `lightning-gen extractor --data datamodules.Digits`."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors import SmallClassifier, TrainedClassifier
from lightning_gen.evaluation.gate import BATCH, ladders
from lightning_gen.evaluation.pixels import to_uint8
from lightning_gen.random_source import GeneratorSource, RandomSource, derive_seed
from lightning_gen.run_directory import write_atomically
from lightning_gen.specs import resolve


def extractor(
    data: str = "datamodules.Digits",
    name: str = "digits",
    out: Path | None = None,
    seed: int = 0,
    steps: int = 400,
    batch_size: int = 400,
    min_accuracy: float = 0.95,
) -> Path:
    """Train a classifier whose features Frechet distances are measured in; write its weights and their provenance.

    Nothing is written of one that is not fit to measure with: its distance must rise with noise, with blur and as classes
    go missing (`gate.py`).

    Args:
        data: dotted path of a labelled data set of integer images with the splits `extractor`, which it is fitted on,
            `real` and `test`, which it must not share an image with.
        name: of the extractor: distances are reported as FD[name].
        out: folder for NAME.safetensors and NAME.json; by default the package's own weights.
        seed: of initialisation, batches and augmentation.
        steps: of the optimizer.
        batch_size: images a step, drawn with replacement.
        min_accuracy: share of the test images that it must recognise.

    Returns:
        The path of the weights.

    Raises:
        UserError: a data set that cannot be imported, or without levels, classes or splits; a classifier that is not fit.
    """
    data_set = resolve(data)()
    if data_set.levels is None or data_set.num_classes is None:
        raise UserError(f"{data} has no integer images with class labels to train a classifier on")
    train, real, test = (data_set.split(split) for split in ("extractor", "real", "test"))
    pixels = to_uint8(train.x, data_set.levels)
    network = train_extractor(pixels, train.y, data_set.num_classes, seed, steps, batch_size)

    trained = TrainedClassifier(network, name)
    logits = torch.cat([trained.logits(part, data_set.levels) for part in test.x.split(BATCH)])
    accuracy = (logits.argmax(1) == test.y).double().mean().item()
    if not accuracy >= min_accuracy:
        raise UserError(
            f"the classifier recognises {accuracy:.4f} of the test images, --min_accuracy asks for {min_accuracy}: nothing "
            "was written, raise --steps"
        )
    found = ladders(trained, real, test.x, data_set.levels, seed=seed)
    for damage, ladder in found.items():
        if not ladder.rises:
            distances = ", ".join(f"{distance:.3g}" for distance in ladder.distances)
            raise UserError(
                f"FD[{name}] does not rise with {damage.replace('_', ' ')} ({distances}): nothing was written, try other "
                "--steps or --seed"
            )

    folder = Path(__file__).parent / "weights" if out is None else Path(out)
    path = folder / f"{name}.safetensors"
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    write_atomically(path, save(tensors, metadata={"config": json.dumps(network.config)}))
    options = {"data": data, "name": name, "seed": seed, "steps": steps, "batch_size": batch_size}
    record = {
        "command": " ".join(["lightning-gen extractor", *(f"--{key} {value}" for key, value in options.items())]),
        **options,
        "digest": trained.digest,
        "config": network.config,
        "accuracy": {"test": round(accuracy, 4)},
        "gate": {"real": real.fingerprint(), **{damage: ladder.record() for damage, ladder in found.items()}},
        "splits": {"extractor": train.fingerprint(), "test": test.fingerprint()},
        "versions": {"python": platform.python_version()}
        | {package: metadata.version(package) for package in ("torch", "numpy", "scikit-learn", "safetensors")},
    }
    write_atomically(path.with_suffix(".json"), json.dumps(record, indent=2) + "\n")
    print(f"{path}: accuracy on {len(test.y)} test images {accuracy:.4f}, digest {trained.digest}")
    return path


def train_extractor(
    pixels: Tensor, labels: Tensor, num_classes: int, seed: int = 0, steps: int = 400, batch_size: int = 400
) -> SmallClassifier:
    """A classifier of uint8 `pixels` [N, C, H, W] with `labels` int64 [N], trained on augmented batches.

    Label smoothing keeps the features from collapsing onto one point a class, where a distance would not see what
    varies within a class. Everything is a function of the arguments; torch's global random state is left as it was.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "initialisation"))
        network = SmallClassifier(pixels.shape[1:], num_classes)
    rng = GeneratorSource(seed).fork("batches")
    images = network.normalize(pixels)
    optimizer = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=2e-3, total_steps=steps, pct_start=0.1)
    network.train()
    for _ in range(steps):
        index = rng.integers(len(images), (batch_size,))
        logits = network.classify(network.features(augment(images[index], rng)))
        loss = F.cross_entropy(logits, labels[index], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return network.eval()


def augment(images: Tensor, rng: RandomSource) -> Tensor:
    """Each of `images` [B, C, H, W] in [-1, 1] under its own small affine map, with a little noise of its own strength.

    Rotation to 0.2 radians, scale to 12 %, shear to 0.15, shifts to an eighth of a side, noise to 0.1. No flips: they
    make other characters.
    """
    angle, scale, shear, *shift = (2 * rng.uniform((5, len(images))) - 1) * torch.tensor(
        [[0.2], [0.12], [0.15], [0.25], [0.25]]
    )
    cos, sin = (1 + scale) * angle.cos(), (1 + scale) * angle.sin()
    maps = torch.stack([torch.stack([cos, shear - sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)
    grid = F.affine_grid(maps, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved + 0.1 * rng.uniform((len(images), 1, 1, 1)) * rng.normal(images.shape)
