import numpy as np
import pytest
import torch
from PIL import Image

from lightning_gen.errors import UserError
from lightning_gen.pictures import FRAME_MS, LAST_FRAME_MS, NOTHING_YET, save_film, save_samples, sheet

GAP = 127


def read(path) -> torch.Tensor:
    """A picture as uint8 [C, H, W]."""
    picture = torch.from_numpy(np.array(Image.open(path)))
    return picture[None] if picture.ndim == 2 else picture.permute(2, 0, 1)


def images(num: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (num, channels, height, width), generator=generator, dtype=torch.uint8)


@pytest.mark.parametrize("num, columns, grid", [(1, None, (1, 1)), (5, None, (2, 3)), (9, None, (3, 3)), (5, 5, (1, 5)),
                                                (5, 2, (3, 2)), (2, 4, (1, 4))])  # fmt: skip
@pytest.mark.parametrize("size", [(32, 40), (64, 48)])
def test_a_sheet_shows_every_image_once_row_by_row(num, columns, grid, size):
    x, (rows, columns_), (height, width) = images(num, 3, *size), grid, size
    picture = sheet(x, columns, gap=3)
    assert picture.shape == (3, rows * (height + 3) + 3, columns_ * (width + 3) + 3)
    # without its first gap the picture is a grid of tiles, each an image and the gap after it
    tiles = picture[:, 3:, 3:].unfold(1, height + 3, height + 3).unfold(2, width + 3, width + 3)
    tiles = tiles.permute(1, 2, 0, 3, 4).flatten(0, 1)
    assert torch.equal(tiles[:num, :, :height, :width], x)
    assert (tiles[num:] == GAP).all() and (tiles[:, :, height:] == GAP).all() and (tiles[:, :, :, width:] == GAP).all()
    assert (picture[:, :3] == GAP).all() and (picture[:, :, :3] == GAP).all()


def test_small_images_are_enlarged_by_whole_pixels():
    x = images(1, 1, 8, 6)
    picture = sheet(x, gap=0)
    assert picture.shape == (1, 32, 24)
    for dy in range(4):
        for dx in range(4):
            assert torch.equal(picture[:, dy::4, dx::4], x[0])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_the_file_holds_the_pixels_of_the_levels(tmp_path, channels, levels):
    x = images(4, channels, 32, 32) % levels if levels < 256 else images(4, channels, 32, 32)
    path = tmp_path / "samples" / "step_1.png"
    save_samples(x, levels, path)
    picture = read(path)
    assert torch.equal(picture[:, 2:34, 2:34], (x[0] * (255.0 / (levels - 1))).round().to(torch.uint8))
    assert torch.equal(picture[:, 36:68, 36:68], (x[3] * (255.0 / (levels - 1))).round().to(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.int16, torch.int64])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("levels", [2, 17, 256])
def test_what_is_not_there_yet_has_a_colour_that_no_grey_has(tmp_path, channels, levels, dtype):
    x = (images(4, channels, 32, 40).long() * levels // 256).to(dtype)
    save_samples(x, levels, tmp_path / "whole.png")
    whole = read(tmp_path / "whole.png").expand(3, -1, -1)
    x[2, :, :10, 5:] = -1
    save_samples(x, levels, tmp_path / "holes.png")
    picture = read(tmp_path / "holes.png")
    assert len(set(NOTHING_YET)) > 1 and picture.shape[0] == 3
    hole = torch.zeros(picture.shape[1:], dtype=torch.bool)
    hole[36:46, 2 + 5 : 2 + 40] = True  # the third image stands below the first
    assert picture[:, hole].unique(dim=1).flatten().tolist() == list(NOTHING_YET)
    assert torch.equal(picture[:, ~hole], whole[:, ~hole])


def test_a_pixel_that_lacks_one_channel_keeps_the_others(tmp_path):
    x = images(1, 3, 32, 32).long()
    x[0, 1, 3, 4] = -1
    save_samples(x, 256, tmp_path / "x.png")
    x[0, 1, 3, 4] = NOTHING_YET[1]
    assert torch.equal(read(tmp_path / "x.png")[:, 2:34, 2:34].long(), x[0])


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32])
def test_what_is_all_there_is_the_same_file_whatever_its_type(tmp_path, dtype):
    save_samples(images(4, 1, 32, 32), 256, tmp_path / "bytes.png")
    save_samples(images(4, 1, 32, 32).to(dtype), 256, tmp_path / "x.png")
    assert (tmp_path / "x.png").read_bytes() == (tmp_path / "bytes.png").read_bytes()
    assert read(tmp_path / "x.png").shape[0] == 1 and (images(4, 1, 32, 32) == 255).any()  # a byte of 255 is no -1


def test_only_minus_one_among_integers_says_that_nothing_is_there(tmp_path):
    for x in (torch.full((1, 1, 32, 32), -1.0), torch.full((1, 1, 32, 32), -2)):
        save_samples(x, 256, tmp_path / "x.png")
        assert (read(tmp_path / "x.png")[:, 2:34, 2:34] == 0).all() and read(tmp_path / "x.png").shape[0] == 1


@pytest.mark.parametrize("channels", [1, 3])
def test_a_film_of_unmasking_keeps_its_colours_in_both_files(tmp_path, channels):
    x = (images(2 * 3, channels, 32, 32).long() // 128).unflatten(0, (2, 3))
    x[:, 0], x[0, 1, :, :16] = -1, -1
    expected = torch.where(x == -1, torch.tensor(NOTHING_YET)[:, None, None], 255 * x).to(torch.uint8)
    save_film(x, 2, tmp_path / "film.png")
    picture = read(tmp_path / "film.png")
    save_film(x, 2, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3
        for k in range(3):
            film.seek(k)
            frame = torch.from_numpy(np.array(film.convert("RGB"))).permute(2, 0, 1)
            for i in range(2):
                left = 2 + 34 * i  # both samples in one row of a frame
                assert torch.equal(picture[:, 2 + 34 * i : 34 + 34 * i, 2 + 34 * k : 34 + 34 * k], expected[i, k])
                assert torch.equal(frame[:, 2:34, left : left + 32], expected[i, k])


def test_points_of_the_plane_are_scattered(tmp_path):
    def ink(points: torch.Tensor) -> int:
        """How many pixels have a colour."""
        save_samples(points, None, tmp_path / "points.png")
        colour = read(tmp_path / "points.png")[:3].int()
        return int((colour.amax(0) - colour.amin(0) > 60).sum())

    one = ink(torch.tensor([[0.0, 0.0]]))
    many = ink(torch.randn(200, 2, generator=torch.Generator().manual_seed(0)))
    assert 0 < 20 * one < many


@pytest.mark.parametrize("shape", [(3,), (2, 8, 8), (8, 8), ()])
def test_what_has_no_picture_is_a_users_error(tmp_path, shape):
    with pytest.raises(UserError, match="have no picture"):
        save_samples(torch.zeros(4, *shape), None, tmp_path / "x.png")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_film_of_images_has_a_row_for_each_sample(tmp_path, channels):
    x = images(2 * 4, channels, 32, 32).unflatten(0, (2, 4))
    save_film(x, 256, tmp_path / "new" / "film.png")
    picture = read(tmp_path / "new" / "film.png")
    assert picture.shape == (channels, 2 * 34 + 2, 4 * 34 + 2)
    for i in range(2):
        for k in range(4):
            assert torch.equal(picture[:, 2 + 34 * i : 34 + 34 * i, 2 + 34 * k : 34 + 34 * k], x[i, k])


def test_a_moving_film_shows_all_samples_frame_by_frame(tmp_path):
    x = (images(4 * 3, 1, 32, 32) // 128).unflatten(0, (4, 3))
    save_film(x, 2, tmp_path / "film.gif")
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 3 and film.info["loop"] == 0
        for k in range(3):
            film.seek(k)
            save_samples(x[:, k], 2, tmp_path / "frame.png")
            assert torch.equal(torch.from_numpy(np.array(film.convert("L"))), read(tmp_path / "frame.png")[0])
            assert film.info["duration"] == (LAST_FRAME_MS if k == 2 else FRAME_MS)


def test_a_film_of_points_has_a_panel_or_a_frame_for_each_time_on_common_axes(tmp_path):
    x = torch.randn(300, 4, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([8.0, 4.0, 2.0, 1.0])[:, None]
    save_film(x, None, tmp_path / "film.png")
    save_film(x, None, tmp_path / "film.gif")
    picture = read(tmp_path / "film.png")[:3].int()
    assert picture.shape[2] > 3 * picture.shape[1]
    panels = picture[..., : picture.shape[2] // 4 * 4].unflatten(2, (4, -1)).permute(2, 0, 1, 3)
    with Image.open(tmp_path / "film.gif") as film:
        assert film.n_frames == 4
        moving = []
        for k in range(4):
            film.seek(k)
            moving.append(torch.from_numpy(np.array(film.convert("RGB"))).permute(2, 0, 1).int())
    for frames in (panels, moving):
        spread = []
        for frame in frames:
            ink = (frame.amax(0) - frame.amin(0) > 60).nonzero().float()
            spread.append(ink.std(0).mean().item())
        assert all(1.5 * after < before for before, after in zip(spread, spread[1:])), spread


def test_a_film_of_what_has_no_picture_is_a_users_error(tmp_path):
    for suffix in ("png", "gif"):
        with pytest.raises(UserError, match="have no picture"):
            save_film(torch.zeros(4, 2, 3), None, tmp_path / f"x.{suffix}")
