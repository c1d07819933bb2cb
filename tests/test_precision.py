import pytest
import torch

from lightning_gen.precision import full_float32


def switches():
    backends = torch.backends
    return [part.fp32_precision for part in (backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul)]


@pytest.mark.skipif(not hasattr(torch.backends, "fp32_precision"), reason="older torch has other switches")
@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_inside_nothing_is_shortened_and_outside_nothing_is_changed(precision):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    torch.set_default_dtype(torch.float16)
    try:
        outside = switches()
        with torch.autocast("cpu", torch.bfloat16):
            with pytest.raises(KeyError), full_float32("cpu"):
                assert switches() == ["ieee"] * 3
                assert (
                    torch.ones(2, 2, dtype=torch.float32) @ torch.ones(2, 2, dtype=torch.float32)
                ).dtype == torch.float32
                assert torch.ones(1).dtype == torch.float32
                raise KeyError
            assert torch.is_autocast_enabled("cpu")
        assert switches() == outside and torch.get_default_dtype() == torch.float16
        assert torch.get_float32_matmul_precision() == precision
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_float32_matmul_precision(before)
