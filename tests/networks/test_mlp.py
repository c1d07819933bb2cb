import pytest

from lightning_gen.errors import UserError
from lightning_gen.networks import MLP


def test_images_are_refused():
    with pytest.raises(UserError, match="vectors"):
        MLP((1, 8, 8), 1)
