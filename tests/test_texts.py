import pytest
import torch

from lightning_gen.errors import UserError
from lightning_gen.texts import NOTHING_YET, lines, save_text, save_text_film


def test_symbol_i_stands_for_i_in_the_order_of_the_sequence():
    x = torch.tensor([[2, 0, 1, 1], [1, 2, 2, 0]], dtype=torch.uint8)
    assert lines(x, "xyz") == ["zxyy", "yzzx"]


def test_where_there_is_nothing_yet_is_told_from_every_symbol():
    assert lines(torch.tensor([[-1, 2, 0]]), "ab_") == [f"{NOTHING_YET}_a"] and NOTHING_YET not in "ab_"


def test_a_sample_is_one_line_whatever_its_symbols_and_no_two_of_the_usual_ones_look_alike():
    symbols = "".join(map(chr, [*range(32), 0x7F, 0x85, 0x2028, 0x2029])) + " aé漢"
    (shown,) = lines(torch.arange(len(symbols))[None], symbols)
    assert len(shown) == len(symbols) and shown.splitlines() == [shown] and shown.endswith(" aé漢")
    assert len(set(shown[:32])) == 32


def test_a_file_has_a_line_a_sample_and_a_film_a_paragraph_a_sample(tmp_path):
    x = torch.tensor([[0, 1], [2, 0], [1, 1]])
    save_text(x, "aé\n", tmp_path / "new" / "x.txt")
    assert (tmp_path / "new" / "x.txt").read_bytes() == "aé\n↵a\néé\n".encode()
    film = torch.tensor([[[-1, -1], [0, -1], [0, 1]], [[-1, -1], [-1, 2], [1, 2]]])
    save_text_film(film, "abc", tmp_path / "film.txt")
    shown = (tmp_path / "film.txt").read_text(encoding="utf-8").replace(NOTHING_YET, "?")
    assert shown == "??\na?\nab\n\n??\n?c\nbc\n"


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(2, 3), "no sequences"),
        (torch.zeros(2, 1, 4, 4, dtype=torch.uint8), r"shape \(1, 4, 4\)"),
        (torch.tensor([[0, 3]]), "hold 0..3, and there are 3"),
        (torch.tensor([[-2, 0]]), "hold -2..0"),
    ],
)
def test_what_is_no_sequence_of_the_symbols_is_refused(x, message):
    with pytest.raises(UserError, match=message):
        lines(x, "abc")
