import pytest
import torch


@pytest.fixture(autouse=True)
def seeded():
    """What a layer draws when it is made is the same in every run."""
    torch.manual_seed(0)
