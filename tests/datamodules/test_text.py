"""Text as integers: what stands for what, where it is cut, and that nothing is copied."""

import numpy as np
import pytest
import torch

from datamodules import Text
from datamodules.loaders import Examples
from datamodules.text import EMBEDDED, Alphabet, Characters, LowerCase, Windows
from lightning_gen.errors import UserError


@pytest.fixture
def written(tmp_path):
    """written(text, name="a.txt"): a file of these characters, or bytes."""

    def function(text: str | bytes, name: str = "a.txt") -> str:
        file = tmp_path / "files" / name
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(file)

    return function


def read(data: Text, x: torch.Tensor) -> list[str]:
    return ["".join(data.symbols[i] for i in row) for row in x.tolist()]


def whole(data: Text) -> str:
    """All that the splits were cut from."""
    return "".join(data.symbols[i] for name in ("train", "val", "test") for i in data.split(name).text.tolist())


# ---- alphabets ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("Hello,  World!\r\n2 you", "hello world you"), ("--a--", " a "), ("Éa É", " a "), ("AZaz@[`{", "azaz ")],
)
def test_lower_case_is_text8s_normalisation(written, text, expected):
    assert whole(Text(written(text * 20), length=1)) == _collapsed(expected * 20)


def _collapsed(text: str) -> str:
    while "  " in text:
        text = text.replace("  ", " ")
    return text


def test_runs_of_spaces_are_one_and_characters_whole_across_the_chunks_that_are_read(written, monkeypatch):
    path = written("ab é c " * 30)
    texts = {}
    for size in (2**22, 1, 3):
        monkeypatch.setattr("datamodules.text.CHUNK", size)
        texts[size] = [
            a.encode(Text(path)._chunks(), a.symbols_of([])).tolist() for a in (LowerCase(), Characters("éabc "))
        ]
    assert texts[1] == texts[3] == texts[2**22]
    assert len(texts[1][0]) == 5 * 30 and texts[1][1][:7] == [1, 2, 4, 0, 4, 3, 4]


def test_characters_stand_as_they_are_for_their_place_in_the_alphabet(written):
    text = "Zürich 漢\r\n\t" * 50
    every = Text(written(text), length=4, alphabet=Characters())
    assert every.symbols == "".join(sorted(set(text))) and every.levels == len(set(text))
    assert whole(every) == text
    own = Text(written("abba" * 50), length=4, alphabet=Characters("ba?"))
    assert own.split("train").x[0].tolist() == [1, 0, 0, 1] and own.levels == 3


def test_above_256_symbols_they_are_int64(written):
    many = "".join(map(chr, range(0x4E00, 0x4E00 + 300))) * 2
    data = Text(written(many), length=5, alphabet=Characters())
    assert data.levels == 300 and data.split("train").x.dtype == torch.int64 and whole(data) == many


def test_the_levels_of_lower_case_need_no_file():
    data = Text("is/not/there", length=9)
    assert (data.levels, data.shape, data.num_classes) == (27, (9,), None) and data.symbols[0] == " "


@pytest.mark.parametrize("symbols", ["", "a", "aba"])
def test_an_alphabet_has_two_symbols_or_more_each_once(symbols):
    with pytest.raises(UserError, match="symbols"):
        Characters(symbols)


# ---- splits -------------------------------------------------------------------------------------------------------


def test_the_splits_are_stretches_of_the_text_one_after_the_other(written):
    text = "".join(chr(97 + i % 26) for i in range(1009))
    data = Text(written(text), length=7)
    train, val, test = (data.split(name) for name in ("train", "val", "test"))
    assert whole(data) == text and (len(train.text), len(val.text), len(test.text)) == (909, 50, 50)
    assert (len(train), len(val), len(test)) == (903, 7, 7)
    assert read(data, train.x[[0, 1, -1]]) == [text[:7], text[1:8], text[902:909]]
    assert "".join(read(data, val.x)) == text[909 : 909 + 49] and "".join(read(data, test.x)) == text[959 : 959 + 49]


def test_windows_are_views_and_a_batch_of_them_is_what_was_asked_for():
    text = torch.arange(200, dtype=torch.uint8)
    for windows in (Windows(text, 8), Windows(text, 8, 3)):
        assert windows.x.data_ptr() == text.data_ptr() and windows.x.untyped_storage().nbytes() == 200
        batch = windows.take(torch.tensor([5, 0, len(windows) - 1]), 4)
        starts = torch.tensor([5, 0, len(windows) - 1]) * windows.stride
        assert torch.equal(batch.x, (starts[:, None] + torch.arange(8)).to(torch.uint8))
        assert batch.x.is_contiguous() and batch.y is None and batch.micro_step == 4
    assert len(Windows(text, 8)) == 193 and len(Windows(text, 8).apart()) == 25


def test_an_epoch_has_every_window_once_and_mixes_those_far_apart(monkeypatch):
    monkeypatch.setattr("datamodules.text.STRETCH", 16)
    monkeypatch.setattr("datamodules.text.MIXED", 8)
    windows = Windows(torch.zeros(2000, dtype=torch.uint8), 5)
    order = windows.order(3)
    first, second = order.positions(0, 1996), order.positions(1996, 2 * 1996)
    assert torch.equal(first.sort().values, torch.arange(1996)) and torch.equal(
        second.sort().values, torch.arange(1996)
    )
    assert not torch.equal(first, second) and not torch.equal(first, windows.order(4).positions(0, 1996))
    assert first[:64].float().std() > 300  # of 0..1995, of which neighbours would have 18


def test_the_fingerprint_tells_content_length_and_stride():
    text = torch.arange(100, dtype=torch.uint8)
    other = text.clone()
    other[99] = 0
    cases = [Windows(text, 5), Windows(other, 5), Windows(text, 6), Windows(text, 5, 5), Windows(text.long(), 5)]
    cases += [Windows(text[:8], 5, 2), Windows(text[:8], 5, 3)]  # two windows each
    assert len({windows.fingerprint() for windows in cases}) == len(cases)
    assert Windows(text.clone(), 5).fingerprint() == cases[0].fingerprint()


def test_text_is_checked_once_a_character_and_refused_where_an_alphabet_breaks_its_word(written):
    class Wrong(Alphabet):
        def symbols_of(self, text):
            return "ab"

        def encode(self, text, symbols):
            return np.full(400, 2, np.uint8)

    with pytest.raises(ValueError, match=r"holds 2\.\.2"):
        Text(written("x" * 400), length=4, alphabet=Wrong()).split("train")


# ---- the file -----------------------------------------------------------------------------------------------------


def test_the_embedded_text_is_there_is_ascii_and_fills_every_split():
    data = Text()
    assert 30_000 <= EMBEDDED.stat().st_size <= 60_000 and EMBEDDED.read_bytes().isascii()
    assert len(data.split("train")) > 25_000 and min(len(data.split("val")), len(data.split("test"))) >= 20
    assert read(data, data.split("train").x[:1])[0].startswith("alice s adventures in wonderland")
    assert data.extractor is None and data.floor == "val"


def test_a_path_is_looked_for_here_then_in_the_data_folder(tmp_path, written, monkeypatch):
    text = "here it is " * 200
    path = written(text, "mine.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIGHTNING_GEN_DATA", raising=False)
    assert whole(Text("files/mine.txt")) == text and whole(Text("mine.txt", root="files")) == text
    with pytest.raises(UserError, match=r"path mine\.txt is no file"):
        Text("mine.txt").split("train")
    monkeypatch.setenv("LIGHTNING_GEN_DATA", str(tmp_path / "files"))
    assert whole(Text("mine.txt")) == whole(Text(path)) == text


@pytest.mark.parametrize(
    ("content", "kwargs", "words"),
    [
        (b"caf\xe9 " * 100, {}, "UTF-8"),
        (("the cat " * 100).encode("utf-16"), {}, "is not UTF-8 text .*: convert it to UTF-8"),
        (("the cat " * 100).encode("utf-16-le"), {}, "holds NUL characters, as UTF-16 does: convert it to UTF-8"),
        (("the cat " * 100).encode("utf-16-be"), {"alphabet": Characters()}, "holds NUL characters, as UTF-16 does"),
        ("ab" * 500, {"length": 51}, "make no example of 51"),
        ("", {}, "0 characters"),
        ("abc" * 100, {"alphabet": Characters("ab")}, "'c', which is not in the alphabet"),
        ("a" * 400, {"alphabet": Characters()}, "fewer than two"),
        ("ab" * 400, {"length": 0}, "length must be at least 1"),
    ],
)
def test_a_text_that_cannot_be_used_is_refused_in_one_sentence(written, content, kwargs, words):
    with pytest.raises(UserError, match=words) as refused:
        Text(written(content), **kwargs).split("train")
    assert "\n" not in str(refused.value) and str(refused.value).endswith(".")


def test_a_byte_order_mark_is_no_character(written):
    text = "the cat sat " * 40
    for alphabet in (LowerCase(), Characters(), Characters(" acehst")):
        plain = Text(written(text.encode(), "plain.txt"), length=4, alphabet=alphabet)
        marked = Text(written(text.encode("utf-8-sig"), "marked.txt"), length=4, alphabet=alphabet)
        assert marked.symbols == plain.symbols and "\ufeff" not in marked.symbols
        assert whole(marked) == whole(plain) == text


def test_a_text_is_encoded_once_and_again_when_file_or_alphabet_changed(written, cache, monkeypatch):
    encoded, encode = [], Characters.encode
    monkeypatch.setattr(Characters, "encode", lambda *args: (encoded.append(1), encode(*args))[1])
    path = written("abc" * 200)

    def made(symbols=None):
        return whole(Text(path, length=4, alphabet=Characters(symbols))), len(encoded)

    assert made() == made() == ("abc" * 200, 1)
    assert made("cba") == ("abc" * 200, 2)
    written("acb" * 200)
    assert made() == ("acb" * 200, 3)
    assert len(list(cache.iterdir())) == 3


def test_the_alphabet_of_a_user_is_never_taken_from_the_cache(written, cache):
    class Mine(Characters):
        pass

    assert whole(Text(written("ab" * 200), length=4, alphabet=Mine())) == "ab" * 200
    assert not cache.exists() or not list(cache.iterdir())


def test_training_resumes_with_the_windows_it_would_have_had(written):
    data = Text(written("the quick brown fox " * 40), length=6, batch_size=4)
    stream = iter(data.train_dataloader())
    batches = [next(stream) for _ in range(6)]
    assert batches[0].x.shape == (4, 6) and batches[0].x.dtype == torch.uint8
    data._micro_step = lambda: 3
    assert all(torch.equal(a.x, b.x) for a, b in zip(batches[3:], data.train_dataloader()))
    assert isinstance(data.split("val"), Windows) and not isinstance(data.split("val"), Examples)
