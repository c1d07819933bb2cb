import os

import pytest
import torch
from PIL import Image

from lightning_gen.display import Pictures, Texts, display_of


class Logger:
    """What a WandbLogger is told."""

    def __init__(self) -> None:
        self.told = []

    def log_image(self, key, images, step):
        self.told.append(("image", key, images, step))

    def log_text(self, key, columns, data, step):
        self.told.append(("text", key, columns, data, step))


def test_levels_that_stand_for_symbols_are_shown_as_text_and_others_as_pictures(tmp_path):
    assert isinstance(display_of(3, "abc"), Texts)
    assert isinstance(display_of(3, None), Pictures) and isinstance(display_of(None, None), Pictures)


def test_every_display_writes_what_its_suffixes_say(tmp_path):
    pictures, texts = display_of(3, None), display_of(3, "abc")
    images, sequences = torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, dtype=torch.uint8)
    pictures.save(images, tmp_path / f"x{pictures.suffix}")
    for suffix in pictures.film_suffixes:
        pictures.save_film(images[:, None].repeat(1, 3, 1, 1, 1), tmp_path / f"film{suffix}")
    for name in ("x.png", "film.png", "film.gif"):
        Image.open(tmp_path / name).verify()
    texts.save(sequences, tmp_path / f"x{texts.suffix}")
    texts.save_film(sequences[:, None].repeat(1, 3, 1), tmp_path / f"film{texts.film_suffixes[0]}")
    assert (tmp_path / "x.txt").read_text() == "aaaa\naaaa\n"
    assert (tmp_path / "film.txt").read_text() == "aaaa\naaaa\naaaa\n\naaaa\naaaa\naaaa\n"


def test_wandb_gets_pictures_as_images_and_text_as_a_table_of_a_row_a_sample(tmp_path):
    logger = Logger()
    display_of(3, None).log(logger, "samples", tmp_path / "x.png", 5)
    texts = display_of(3, "ab\n")
    texts.save(torch.tensor([[0, 2], [1, 1]]), tmp_path / "x.txt")
    texts.log(logger, "samples", tmp_path / "x.txt", 6)
    image, text = logger.told
    assert image == ("image", "samples", [str(tmp_path / "x.png")], 5)
    assert text == ("text", "samples", ["sample"], [["a↵"], ["bb"]], 6)


@pytest.mark.parametrize("name", ["a.png", "film.png", "film.gif", "points.png", "text.txt", "figure.png"])
def test_a_full_disk_leaves_what_was_there(tmp_path, small_files, name):
    from matplotlib.figure import Figure

    from lightning_gen.run_directory import save_figure

    noise = torch.randint(256, (9, 2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    write = {
        "a.png": lambda path: display_of(256, None).save(noise[:, 0], path),
        "film.png": lambda path: display_of(256, None).save_film(noise, path),
        "film.gif": lambda path: display_of(256, None).save_film(noise, path),
        "points.png": lambda path: display_of(None, None).save(torch.randn(50, 2), path),
        "text.txt": lambda path: display_of(2, "ab").save(torch.ones(99, 40, dtype=torch.int64), path),
        "figure.png": lambda path: save_figure(Figure(), path),
    }[name]
    write(tmp_path / name)
    before = (tmp_path / name).read_bytes()
    with small_files(700), pytest.raises(OSError):
        write(tmp_path / name)
    assert (tmp_path / name).read_bytes() == before and os.listdir(tmp_path) == [name]
