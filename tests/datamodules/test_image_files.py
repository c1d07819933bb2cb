"""Files below a place: what cannot be read is one line that names it."""

import errno
import os
import zipfile

import pytest

from datamodules.image_files import Archive, Folder
from lightning_gen.errors import UserError


def test_a_link_that_leads_nowhere_is_named_unless_hidden(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "0.png").write_bytes(b"content")
    (tmp_path / "cat" / ".1.png").symlink_to("nowhere")
    (tmp_path / "cat" / "2.png").symlink_to("0.png")
    folder = Folder(tmp_path)
    assert list(folder.stamps) == ["cat/0.png", "cat/2.png"] and folder.read("cat/2.png") == b"content"
    (tmp_path / "cat" / "3.png").symlink_to("nowhere")
    with pytest.raises(UserError, match=r"cat/3.png is a link that leads nowhere: remove or mend it\.$"):
        Folder(tmp_path)


def test_only_regular_files_are_read(tmp_path):
    (tmp_path / "cat").mkdir()
    os.mkfifo(tmp_path / "cat" / "pipe")
    (tmp_path / "cat" / "0.png").write_bytes(b"content")
    assert list(Folder(tmp_path).stamps) == ["cat/0.png"]
    for target in ("pipe", "/dev/zero"):
        (tmp_path / "cat" / "1.png").symlink_to(target)
        with pytest.raises(UserError, match=r"cat/1.png is no file but a pipe, socket or device: remove it\.$"):
            Folder(tmp_path)
        (tmp_path / "cat" / "1.png").unlink()


@pytest.mark.parametrize("link, target, both", [("a/loop", "..", "a/loop and ."), ("b", "a", "b and a")])
def test_one_folder_under_two_names_is_refused(tmp_path, link, target, both):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").write_bytes(b"content")
    (tmp_path / link).symlink_to(target)
    with pytest.raises(UserError) as caught:
        Folder(tmp_path)
    assert str(caught.value) == f"{tmp_path}: {both} are one folder (a link): its images would count twice."
    (tmp_path / link).rename((tmp_path / link).with_name(".hidden"))
    assert list(Folder(tmp_path).stamps) == ["a/0.png"]


def test_a_folder_that_cannot_be_listed_is_named(tmp_path, monkeypatch):
    (tmp_path / "cat").mkdir()
    scan = os.scandir

    def refuse(path):
        if str(path).endswith("cat"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"/cat cannot be read \(Permission denied\)\.$"):
        Folder(tmp_path)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("other", ["a/0.png", "./a/0.png", "a\\0.png", "/a/b/../0.png"])
def test_a_name_that_a_zip_holds_twice_is_refused(tmp_path, other):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as file:
        file.writestr("a/0.png", b"content")
        file.writestr(other, b"other content")
    with pytest.raises(UserError, match=r"images.zip holds a/0.png twice: unpack the archive and name the folder\.$"):
        Archive(tmp_path / "images.zip")


def archive(path, **fields) -> Archive:
    """A zip whose second member's directory entry has these fields changed."""
    with zipfile.ZipFile(path, "w") as file:
        for name in ("a/0.png", "a/1.png"):
            file.writestr(name, b"content")
        for field, value in fields.items():
            setattr(file.getinfo("a/1.png"), field, value)
    return Archive(path)


@pytest.mark.parametrize(
    "fields, why",
    [
        ({}, None),
        ({"flag_bits": 1}, "encrypted"),
        ({"compress_type": 97}, "packed by a method that Python cannot read"),
    ],
)
def test_a_member_that_cannot_be_unpacked_is_named(tmp_path, fields, why):
    files = archive(tmp_path / "images.zip", **fields)
    names = list(files.stamps)
    assert files.read(names[0]) == b"content"
    if why is None:
        assert files.read(names[1]) == b"content"
        return
    with pytest.raises(UserError) as caught:
        files.read(names[1])
    message = f"{tmp_path}/images.zip: {names[1]} is {why}: unpack the archive and name the folder."
    assert str(caught.value) == message
