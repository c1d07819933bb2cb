"""Folders and zips of images: the same arrays from both, and a clear line for what cannot be one."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.image_folder import ImageFolder
from lightning_gen.errors import UserError

NAMES = ("train", "val", "test")
DATA = os.environ.get("LIGHTNING_GEN_DATA", "")
needs_cifar = pytest.mark.skipif(not os.path.isfile(f"{DATA}/cifar10_jpeg.zip"), reason="LIGHTNING_GEN_DATA has no zip")


def picture(seed: int, size=(6, 6), channels: int = 3) -> Image.Image:
    shape = (size[1], size[0], channels)[: 2 if channels == 1 else 3]
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def write(folder: Path, *names: str, size=(6, 6)) -> Path:
    """Images whose pixels depend on their place in `names`."""
    for seed, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        picture(seed, size).save(folder / name)
    return folder


def grid(part: str = "", num: int = 20) -> list[str]:
    return [f"{part}{label}/{k}.png" for label in ("cat", "ant", "bee") for k in range(num)]


def pack(folder: Path, wrapper: str = "", rename=lambda name: name) -> Path:
    """A zip of the folder, with directory entries; `rename` gives the names in it."""
    archive = folder.with_suffix(".zip")
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*"), reverse=True):
            name = path.relative_to(folder).as_posix() + ("/" if path.is_dir() else "")
            file.writestr(zipfile.ZipInfo(rename(wrapper + name)), b"" if path.is_dir() else path.read_bytes())
    return archive


def contents(data: ImageFolder) -> dict[str, list[bytes]]:
    """{split: its images with their labels, sorted}."""
    labels = {name: data.split(name).y for name in NAMES}
    return {
        name: sorted(
            x.numpy().tobytes() + bytes([0 if y is None else int(y[k])]) for k, x in enumerate(data.split(name).x)
        )
        for name, y in labels.items()
    }


@pytest.mark.parametrize("wrapper", ["", "pictures/", "a/b/"])
@pytest.mark.parametrize("parts", [[""], ["train/"], ["train/", "test/"], ["train/", "val/", "test/"]], ids=str)
def test_a_zip_and_its_folder_are_equal(tmp_path, parts, wrapper):
    folder = write(tmp_path / "images", *(name for part in parts for name in grid(part)))
    one, other = ImageFolder(str(folder)), ImageFolder(str(pack(folder, wrapper)))
    assert one.class_names == other.class_names == ("ant", "bee", "cat")
    assert one.shape == other.shape == (3, 6, 6) and one.num_classes == other.num_classes == 3
    for name in NAMES:
        assert one.split(name).fingerprint() == other.split(name).fingerprint()
    expected = {
        ("",): (48, 6, 6),
        ("train/",): (48, 6, 6),
        ("train/", "test/"): (54, 6, 60),
        ("train/", "val/", "test/"): (60, 60, 60),
    }
    assert tuple(len(one.split(name)) for name in NAMES) == expected[tuple(parts)]


@pytest.mark.parametrize("parts", [["a/"], ["a/", "b/"]], ids=["one", "two"])
def test_a_folder_that_holds_all_others_is_no_class(tmp_path, parts):
    plain = write(tmp_path / "plain", *(name for part in parts for name in grid(part)))
    inner = write(tmp_path / "inner" / "pictures", *(name for part in parts for name in grid(part))).parent
    assert ImageFolder(str(plain)).class_names == ImageFolder(str(inner)).class_names
    assert ImageFolder(str(inner)).class_names == (("ant", "bee", "cat") if parts == ["a/"] else ("a", "b"))
    assert ImageFolder(str(plain)).split("val").fingerprint() == ImageFolder(str(inner)).split("val").fingerprint()


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("/", "\\"),
        lambda name: "./" + name,
        lambda name: "/" + name,
        lambda name: "/" * ("ant" in name) + name,
        lambda name: "C:\\pictures\\" + name.replace("/", "\\"),
        lambda name: "../pictures//" + name,
        lambda name: name[:-4] + ".PNG" if name.endswith(".png") else name,
    ],
    ids=["backslashes", "./", "/", "some with /", "C:", "..", "PNG"],
)
@pytest.mark.parametrize("flat", [False, True])
def test_a_zip_is_read_whatever_its_names_begin_with_and_are_cut_by(tmp_path, rename, flat):
    folder = write(
        tmp_path / "images", *([f"{k}.png" for k in range(30)] if flat else grid("train/") + grid("test/", 5))
    )
    expected = contents(ImageFolder(str(folder)))
    data = ImageFolder(str(pack(folder, rename=rename)))
    if flat and "pictures" in rename(""):
        return  # then that is the folder of its one class
    assert data.class_names == (() if flat else ("ant", "bee", "cat")) and contents(data) == expected


@pytest.mark.parametrize("below", ["cat/", ""])
@pytest.mark.parametrize(
    "names",
    [
        ("train", "valid"),
        ("train", "validation", "test"),
        ("Train", "Val", "Test"),
        ("TRAIN", "TEST"),
        ("training", "testing"),
    ],
    ids=str,
)
def test_parts_are_known_by_their_usual_names(tmp_path, capsys, names, below):
    folder = write(tmp_path / "images", *(f"{part}/{below}{k}.png" for part in names for k in range(20)))
    (tmp_path / "plain").mkdir()
    for name, plain in (("tr", "train"), ("v", "val"), ("te", "test")):
        for part in names:
            if part.lower().startswith(name):
                (folder / part).rename(tmp_path / "plain" / plain)
                (folder / part).symlink_to(tmp_path / "plain" / plain)
    data, plain = ImageFolder(str(folder)), ImageFolder(str(tmp_path / "plain"))
    assert data.class_names == (("cat",) if below else ()) and data.parts() == plain.parts()
    assert contents(data) == contents(plain)
    assert ("no labels" in capsys.readouterr().err) == (not below)


def test_images_have_their_pixels_and_the_label_of_their_folder(tmp_path):
    folder = write(tmp_path / "images", *grid("train/"), *grid("test/", 2))
    data = ImageFolder(str(folder))
    found = {x.numpy().tobytes(): y for name in NAMES for x, y in zip(data.split(name).x, data.split(name).y.tolist())}
    assert len(found) == 66
    for path in folder.rglob("*.png"):
        pixels = np.asarray(Image.open(path)).transpose(2, 0, 1).tobytes()
        assert data.class_names[found[pixels]] == path.parent.name


def test_what_is_no_image_of_the_set_is_passed_over(tmp_path):
    folder = write(tmp_path / "images", *grid())
    clean = ImageFolder(str(folder)).split("train").fingerprint()
    (folder / "read me.txt").write_text("words")
    (folder / "cat" / ".DS_Store").write_bytes(b"junk")
    (folder / "cat" / "._0.png").write_bytes(b"junk")
    (folder / "__MACOSX" / "cat").mkdir(parents=True)
    (folder / "__MACOSX" / "cat" / "0.png").write_bytes(b"junk")
    write(folder, ".hidden/0.png", "icon.png")
    assert ImageFolder(str(folder)).class_names == ("ant", "bee", "cat")
    assert ImageFolder(str(folder)).split("train").fingerprint() == clean
    assert ImageFolder(str(pack(folder))).split("train").fingerprint() == clean


def test_images_in_no_class_folder_have_no_labels(tmp_path):
    data = ImageFolder(str(write(tmp_path / "faces", *(f"{k}.png" for k in range(30)))))
    assert data.num_classes is None
    assert [(len(data.split(name)), data.split(name).y) for name in NAMES] == [(24, None), (3, None), (3, None)]
    assert data.first_batch().y is None if data.batch_size <= 24 else True
    with pytest.raises(UserError, match="ImageFolder has no labels to choose classes"):
        ImageFolder(str(tmp_path / "faces"), classes=[0]).split("train")


def test_a_label_file_of_stylegan_and_edm_names_the_classes(tmp_path, capsys):
    names = [f"{k // 10:05}/img{k:08}.png" for k in range(30)]
    folder = write(tmp_path / "images", *names)
    said = [[name.replace("/", "\\") if k % 2 else name, (0, 3, 1)[k % 3]] for k, name in enumerate(names)]
    (folder / "dataset.json").write_text(json.dumps({"labels": said}))
    for data in (ImageFolder(str(folder)), ImageFolder(str(pack(folder, "edm/")))):
        assert data.num_classes == 4 and data.class_names == ("0", "1", "2", "3")
        label = {picture(k).tobytes(): y for k, (_, y) in enumerate(said)}
        for name in NAMES:
            for x, y in zip(data.split(name).x, data.split(name).y.tolist()):
                assert label[x.permute(1, 2, 0).numpy().tobytes()] == y
    assert not capsys.readouterr().err
    before = ImageFolder(str(folder)).split("train").fingerprint()
    (folder / "dataset.json").write_text(json.dumps({"labels": [[name, 0] for name, _ in said]}))
    assert ImageFolder(str(folder)).split("train").fingerprint() != before
    (folder / "dataset.json").write_text('{"labels": null}')
    assert ImageFolder(str(folder)).class_names == () and ImageFolder(str(folder)).split("train").y is None
    assert capsys.readouterr().err == f"{folder}: no labels\n"
    (folder / "dataset.json").write_text('{"about": "another program\'s"}')
    assert ImageFolder(str(folder)).class_names == ("00000", "00001", "00002")
    assert "its 3 folders are the classes (00000, 00001, 00002)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "labels, why",
    [
        ([["a/0.png", 1]], "dataset.json has no label of a/1.png: add it, or remove dataset.json."),
        ([["a/0.png", 1], ["a/1.png", -1]], "dataset.json: the label of a/1.png is -1, must be from 0 to 65535."),
        ([["a/0.png", 1], ["a/1.png", [0.5, 0.5]]], "the label of a/1.png is [0.5, 0.5], must be from 0 to 65535."),
        ([3], 'is no label file of StyleGAN or EDM, {"labels": [[image, label], ...]}: mend or remove it.'),
        ("torn", 'is no label file of StyleGAN or EDM, {"labels": [[image, label], ...]}: mend or remove it.'),
    ],
    ids=["missing", "negative", "vector", "no pairs", "no JSON"],
)
def test_a_label_file_that_cannot_be_is_refused(tmp_path, labels, why):
    folder = write(tmp_path / "images", "a/0.png", "a/1.png")
    (folder / "dataset.json").write_text("{" if labels == "torn" else json.dumps({"labels": labels}))
    message = refusal(folder)
    assert message.startswith(f"{folder}: dataset.json") and message.endswith(why)


def test_what_is_guessed_or_passed_over_is_said_once(tmp_path, capsys):
    def said(name, *names, harm=lambda folder: None):
        folder = write(tmp_path / name, *names)
        harm(folder)
        for _ in range(2):
            ImageFolder(str(folder)).split("train")
        return capsys.readouterr().err.replace(f"{folder}: ", "")

    def more(folder):
        (folder / "test" / "bee").mkdir()
        (folder / "train" / "ant" / "0.heic").write_bytes(b"")
        (folder / "train" / "ant" / "Thumbs.db").write_bytes(b"")

    assert said("plain", *grid("train/"), *grid("test/", 2)) == ""
    assert said("classes", *grid()) == "there is no train/, so its 3 folders are the classes (ant, bee, cat)\n"
    assert said("faces", *(f"{k}.png" for k in range(30))) == "no labels, as there are no class folders\n"
    assert said(
        "more", *grid("train/"), *grid("vaild/", 1), "test/ant/0.png", "train/1.png", "icon.png", harm=more
    ) == (
        "no images in test/bee; passed over 5 images outside of the class folders or of train/, val/, test/ (icon.png, "
        "train/1.png, vaild/ant/0.png, ...); passed over 1 images of formats that are not read (train/ant/0.heic)\n"
    )


def test_only_rank_zero_says_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    ImageFolder(str(write(tmp_path / "faces", *(f"{k}.png" for k in range(30))))).split("train")
    assert capsys.readouterr().err == ""


def test_a_class_may_be_called_train(tmp_path):
    data = ImageFolder(str(write(tmp_path / "images", *(f"{c}/{k}.png" for c in ("train", "bus") for k in range(10)))))
    assert data.class_names == ("bus", "train") and len(data.split("train")) == 16


def test_colours_and_greys(tmp_path):
    folder = tmp_path / "images"
    for k, mode in enumerate(["RGB", "L", "RGBA", "P", "1", "LA"] * 5):
        (folder / "a").mkdir(parents=True, exist_ok=True)
        picture(k).convert(mode).save(folder / "a" / f"{k:02}.png")
    assert ImageFolder(str(folder)).split("train").x.shape[1:] == (3, 6, 6)
    grey = ImageFolder(str(folder), grey=True)
    assert grey.shape == (1, 6, 6)
    assert grey.split("train").x.shape == (24, 1, 6, 6)


def test_formats_by_any_of_their_names(tmp_path):
    (tmp_path / "images").mkdir()
    for k, suffix in enumerate((".jfif", ".jpe", ".JPG", ".apng", ".pbm", ".tga", ".GIF") * 4):
        kind = {".jfif": "JPEG", ".jpe": "JPEG", ".apng": "PNG"}.get(suffix)
        picture(k, (6, 6)).convert("1" if suffix == ".pbm" else "RGB").save(tmp_path / "images" / f"{k}{suffix}", kind)
    data = ImageFolder(str(tmp_path / "images"))
    assert sum(len(data.split(name)) for name in NAMES) == 28


def test_of_an_animation_the_first_frame_is_read_and_cmyk_becomes_rgb(tmp_path):
    (tmp_path / "images").mkdir()
    frames = [Image.new("L", (2, 2), grey) for grey in (40, 200)]
    for kind in ("gif", "webp", "png", "tif"):
        options = {"lossless": True} if kind == "webp" else {}
        frames[0].save(tmp_path / "images" / f"a.{kind}", save_all=True, append_images=frames[1:], **options)
    Image.new("CMYK", (2, 2), (255, 0, 0, 0)).save(tmp_path / "images" / "cyan.jpg", quality=100)
    data = ImageFolder(str(tmp_path / "images"))
    for kind in ("gif", "webp", "png", "tif"):
        assert data._decode(f"a.{kind}").tolist() == [[[40, 40]] * 2] * 3, kind
    assert np.abs(data._decode("cyan.jpg")[:, 0, 0].astype(int) - [0, 255, 255]).max() < 4


def test_any_sizes_become_one_by_resizing(tmp_path):
    folder = write(tmp_path / "images", *grid())
    write(folder, "cat/wide.png", size=(20, 8))
    write(folder, "cat/high.png", size=(5, 31))
    assert ImageFolder(str(folder), resize=4, pad=1).split("train").x.shape[1:] == (3, 6, 6)
    plain = write(tmp_path / "plain", *grid())
    exact, same = ImageFolder(str(plain)), ImageFolder(str(plain), resize=6)
    assert exact.split("train").fingerprint() == same.split("train").fingerprint()


def test_the_shape_is_known_without_reading_where_a_size_is_given(tmp_path):
    assert ImageFolder(str(tmp_path / "nowhere"), resize=32).shape == (3, 32, 32)


def test_a_relative_path_is_looked_for_here_then_below_the_root(tmp_path, monkeypatch):
    folder = write(tmp_path / "root" / "images", *grid())
    monkeypatch.setenv("LIGHTNING_GEN_DATA", str(folder.parent))
    monkeypatch.chdir(tmp_path)
    below = ImageFolder("images").split("train").fingerprint()
    assert ImageFolder("root/images").split("train").fingerprint() == below
    assert ImageFolder("images", root="root").split("train").fingerprint() == below


# The cache


def test_once_cached_no_image_is_decoded_and_a_changed_one_is(tmp_path, monkeypatch):
    folder = write(tmp_path / "images", *grid())
    archive = pack(folder)
    before = {path: ImageFolder(str(path)).split("train").fingerprint() for path in (folder, archive)}
    with monkeypatch.context() as patch:
        patch.setattr(ImageFolder, "_decode", lambda *args: pytest.fail("decoded again"))
        patch.setattr(ImageFolder, "native_shape", (3, 6, 6))
        assert all(ImageFolder(str(path)).split("train").fingerprint() == before[path] for path in before)
    for k in range(20):
        picture(1000 + k).save(folder / "cat" / f"{k}.png")
    archive.unlink()
    pack(folder)
    assert all(ImageFolder(str(path)).split("train").fingerprint() != before[path] for path in before)


# Bad input


def refusal(path, **options) -> str:
    with pytest.raises(UserError) as caught:
        ImageFolder(str(path), **options).split("train")
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_images_of_differing_sizes_name_the_first_at_fault(tmp_path):
    folder = write(tmp_path / "images", *grid(num=200))
    for name in ("bee/150.png", "bee/77.png", "cat/3.png"):
        picture(1, (7, 6)).save(folder / name)
    message = refusal(folder)
    assert message == f"{folder}: bee/150.png has 6x7 pixels, others have 6x6: give --data.init_args.resize."


@pytest.mark.parametrize("kind", ["folder", "zip"])
@pytest.mark.parametrize("harm", [lambda content: content[:100], lambda content: b"", lambda content: b"GIF" + content])
def test_an_image_that_cannot_be_read_is_named(tmp_path, kind, harm):
    folder = write(tmp_path / "images", *grid())
    file = folder / "bee" / "7.png"
    file.write_bytes(harm(file.read_bytes()))
    path = folder if kind == "folder" else pack(folder)
    assert refusal(path) == f"{path}: the image bee/7.png cannot be read: remove or replace it."


def test_a_zip_with_a_damaged_member_names_it(tmp_path):
    archive = pack(write(tmp_path / "images", *grid()))
    with zipfile.ZipFile(archive) as file:
        info = file.getinfo("bee/7.png")
    content = bytearray(archive.read_bytes())
    content[info.header_offset + 60] ^= 255
    archive.write_bytes(content)
    assert "bee/7.png cannot be read" in refusal(archive)


def test_what_is_no_set_of_images_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("LIGHTNING_GEN_DATA", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    assert refusal("nowhere") == (
        f"there is no {tmp_path}/nowhere and no {tmp_path}/root/nowhere: name the images by --data.init_args.path, "
        "the folder above them by --data.init_args.root or LIGHTNING_GEN_DATA."
    )
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    assert refusal("empty").startswith("empty holds no images (.jpg, ")
    os.mkfifo(tmp_path / "pipe.zip")
    assert refusal("pipe.zip").startswith("pipe.zip cannot be read as a zip (it is no file)")
    (tmp_path / "half.zip").write_bytes(pack(write(tmp_path / "images", *grid())).read_bytes()[:2000])
    assert refusal("half.zip").startswith("half.zip cannot be read as a zip")


def test_parts_without_training_or_twice_are_refused(tmp_path):
    one = write(tmp_path / "one", *grid("val/"), *grid("test/"))
    assert refusal(one) == f"{one} has test/ and no train/: name the folder of the training images train."
    two = write(tmp_path / "two", *grid("train/"), *grid("val/"), *grid("valid/"))
    assert refusal(two) == f"{two} has train and val and valid, of which two are one part of the data: rename one."


def test_an_image_that_is_too_large_is_named(tmp_path, monkeypatch):
    folder = write(tmp_path / "images", *grid())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 17)
    message = "the image ant/0.png has more than 34 pixels, the most that Pillow reads: make it smaller."
    assert refusal(folder, resize=4) == f"{folder}: {message}"


def test_a_class_that_training_lacks_is_refused(tmp_path):
    folder = write(tmp_path / "images", *grid("train/"), "test/dog/0.png")
    assert refusal(folder) == f"{folder}: test/ has a class 'dog' that train/ has not."


def test_a_part_without_the_classes_of_training_is_refused(tmp_path):
    folder = write(tmp_path / "images", *grid("train/"), "test/0.png")
    assert refusal(folder).startswith(f"{folder}: test/ has no class folders, but train/ has")


@pytest.mark.parametrize("num", [1, 2])
def test_too_few_images_are_refused(tmp_path, num):
    folder = write(tmp_path / "images", *(f"a/{k}.png" for k in range(num)))
    assert "ImageFolder has too few images: the split" in refusal(folder)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_image_of_32_bits_is_named(tmp_path, mode):
    folder = write(tmp_path / "images", *grid())
    picture(1, channels=1).convert(mode).save(folder / "bee" / "99.tif")
    message = f"the image bee/99.tif holds pixels of 32 bits (mode {mode}): convert it to a PNG of 8 bits."
    assert refusal(folder) == f"{folder}: {message}"


@needs_cifar
def test_the_real_zip_is_listed_quickly_and_has_its_classes():
    data = ImageFolder("cifar10_jpeg.zip", resize=32)
    assert data.class_names == tuple(
        ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    )
    assert [len(data._members[part]) for part in data.parts()] == [50_000, 10_000]
    assert torch.from_numpy(data._decode("train/airplane/0000.jpg").copy()).shape == (3, 32, 32)
