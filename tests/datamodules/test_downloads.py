"""Where downloaded data are looked for, and what is said when they are not there."""

import fcntl
import urllib.error

import pytest
import torch

from datamodules.downloads import LOCK
from datamodules.mnist import MNIST
from lightning_gen.errors import UserError

MEND = "name the folder that holds it by --data.init_args.root or LIGHTNING_GEN_DATA"


@pytest.fixture
def offline(monkeypatch):
    """No network, and every attempt at it counted."""
    attempts = []

    def refuse(url, *args, **kwargs):
        attempts.append(url)
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    return attempts


def test_the_root_is_the_argument_else_the_environment_else_data(write_idx, monkeypatch, tmp_path, offline):
    root = write_idx()
    monkeypatch.setenv("LIGHTNING_GEN_DATA", str(root))
    test = MNIST().split("test")
    monkeypatch.setenv("LIGHTNING_GEN_DATA", str(tmp_path / "elsewhere"))
    assert torch.equal(MNIST(root=str(root)).split("test").x, test.x)
    monkeypatch.delenv("LIGHTNING_GEN_DATA")
    monkeypatch.chdir(tmp_path)
    root.rename(tmp_path / "data")
    assert torch.equal(MNIST().split("test").x, test.x)
    assert not offline


def test_what_is_known_of_the_data_needs_no_data(tmp_path, offline):
    data = MNIST(root=str(tmp_path), pad=2, levels=8, classes=[1, 7])
    assert (data.shape, data.levels, data.num_classes) == ((1, 32, 32), 8, 2)
    with pytest.raises(UserError, match="MNIST has no class 10: classes must be from 0 to 9"):
        MNIST(root=str(tmp_path), classes=[10])
    assert not offline and not list(tmp_path.iterdir())


def test_no_data_and_no_network_is_one_clear_line(tmp_path, monkeypatch, offline, capsys):
    monkeypatch.setenv("LIGHTNING_GEN_DATA", str(tmp_path))
    with pytest.raises(UserError) as caught:
        MNIST().split("train")
    message = str(caught.value)
    assert message.startswith(f"there is no MNIST in {tmp_path}/MNIST/raw, and it cannot be downloaded (")
    assert message.endswith(f"): {MEND}.") and "\n" not in message
    assert offline
    assert capsys.readouterr().out == f"downloading MNIST to {tmp_path}/MNIST/raw\n"


def test_without_download_the_network_is_not_asked(tmp_path, offline):
    with pytest.raises(UserError, match=f"^there is no MNIST in {tmp_path}/MNIST/raw: {MEND}, or leave download on.$"):
        MNIST(root=str(tmp_path), download=False).split("train")
    assert not offline


def test_files_that_are_half_there_are_told_from_none(write_idx, offline):
    root = write_idx()
    file = root / "MNIST/raw/train-images-idx3-ubyte"
    content = file.read_bytes()
    for size in (0, 3, 10, 10_000):
        file.write_bytes(content[:size])
        with pytest.raises(UserError) as caught:
            MNIST(root=str(root)).split("train")
        assert str(caught.value).startswith(f"the files of MNIST in {root}/MNIST/raw are damaged or incomplete (")
        assert str(caught.value).endswith("delete that folder, so that they are downloaded again.")
        assert "\n" not in str(caught.value)
    file.unlink()
    with pytest.raises(UserError, match="there is no MNIST in .* and it cannot be downloaded"):
        MNIST(root=str(root)).split("train")


def test_a_root_that_cannot_be_written_is_one_line(tmp_path, offline):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="there is no MNIST in .*/file/MNIST/raw, and it cannot be downloaded"):
        MNIST(root=str(tmp_path / "file")).split("train")


def test_once_cached_nothing_is_read(write_idx, monkeypatch):
    root = write_idx()
    before = MNIST(root=str(root)).split("train").fingerprint()
    monkeypatch.setattr(MNIST, "arrays", lambda *args: pytest.fail("read again"))
    assert MNIST(root=str(root)).split("train").fingerprint() == before


def test_a_file_that_changed_is_read_again(write_idx):
    root = write_idx()
    before = MNIST(root=str(root)).split("test")
    file = root / "MNIST/raw/t10k-images-idx3-ubyte"
    content = bytearray(file.read_bytes())
    content[16:800] = bytes(784)
    file.unlink()
    file.write_bytes(content)
    after = MNIST(root=str(root)).split("test")
    assert (before.x != after.x).flatten(1).any(1).sum() == 1


# Many that download at once


def finish(root, hidden) -> None:
    for file in hidden:
        file.rename(root / "MNIST/raw" / file.name)


@pytest.fixture
def absent(write_idx, tmp_path):
    """(root, MNIST's files, which lie elsewhere): what a download has yet to bring."""
    root = write_idx()
    (tmp_path / "mirror").mkdir()
    return root, [file.rename(tmp_path / "mirror" / file.name) for file in sorted((root / "MNIST/raw").iterdir())]


def test_what_another_machine_downloads_meanwhile_is_not_downloaded_again(absent, monkeypatch, capsys):
    root, hidden = absent
    monkeypatch.setattr(fcntl, "flock", lambda *args: finish(root, hidden))  # it had the lock until it was done
    assert len(MNIST(root=str(root)).split("test")) == 20
    assert not capsys.readouterr().out and [path.name for path in root.iterdir()] == ["MNIST"]


def test_files_that_another_machine_still_writes_are_waited_for(write_idx, monkeypatch):
    root, waited = write_idx(), []
    (root / LOCK).touch()
    monkeypatch.setattr(fcntl, "flock", lambda *args: waited.append(args))
    MNIST(root=str(root)).fetch()
    MNIST(root=str(root)).fetch()
    assert len(waited) == 1  # then they are complete, and nothing is locked


def test_while_one_downloads_the_root_is_locked(absent, monkeypatch):
    root, hidden = absent

    def download(*args, **kwargs):
        with (root / LOCK).open() as file, pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        finish(root, hidden)

    monkeypatch.setattr(MNIST, "reader", lambda self: download)
    MNIST(root=str(root)).fetch()
    assert not (root / LOCK).exists()
