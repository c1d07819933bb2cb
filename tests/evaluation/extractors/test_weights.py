import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lightning_gen.errors import UserError
from lightning_gen.evaluation.extractors.weights import digest, one_line, read_tensors


def test_states_are_read_from_either_format(tmp_path):
    state = nn.BatchNorm1d(3).state_dict()
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "a.pt")
    torch.save(state, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    for file in tmp_path.iterdir():
        found = read_tensors(file)
        assert found.keys() == state.keys() and all(torch.equal(found[key], state[key]) for key in state)


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"not weights at all", b"PK\x03\x04 and no more"])
def test_damaged_files_are_refused(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=f"{name} is damaged"):
        read_tensors(tmp_path / name)


@pytest.mark.parametrize("content", [{}, [torch.ones(1)], {"state_dict": {"a": torch.ones(1)}}, torch.ones(2)])
def test_what_is_no_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        read_tensors(tmp_path / "a.pt")


def test_a_digest_tells_names_types_shapes_and_values_apart():
    tensors = {"a": torch.arange(6.0), "b": torch.tensor(3)}
    others = [
        digest("other", tensors),
        digest("words", {"c": tensors["a"], "b": tensors["b"]}),
        digest("words", {**tensors, "a": tensors["a"].view(2, 3)}),
        digest("words", {**tensors, "a": tensors["a"].view(torch.int32)}),
        digest("words", {**tensors, "a": tensors["a"] + 1e-6}),
        digest("words"),
    ]
    assert len({*others, digest("words", tensors)}) == 7
    assert digest("words", dict(reversed(tensors.items()))) == digest("words", tensors)
    strided = torch.stack([tensors["a"], tensors["a"]], 1)[:, 0]
    assert digest("words", {**tensors, "a": strided}) == digest("words", tensors)
    assert digest("words", {"a": torch.ones(2, dtype=torch.bfloat16)})  # which numpy does not know


def test_errors_are_cut_to_a_line():
    assert one_line(ValueError("a\n  b\tc")) == "a b c"
    assert one_line(EOFError()) == "EOFError"
    assert len(one_line(ValueError("word " * 1000))) <= 200
