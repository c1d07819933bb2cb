"""Files below a place: what cannot be read is one line that names it."""

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
