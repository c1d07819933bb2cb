"""Laws of the film."""

import pytest
import torch

from lightning_gen.discrete_diffusion.film import film
from lightning_gen.errors import UserError


def states(num, shape=(2, 3, 5), levels=4):
    """Masks that go, one more in each state; each state tells its number besides."""
    found = []
    for k in range(num):
        x = torch.full((2, *shape), k % levels)
        x.flatten(1)[:, k:] = levels
        found.append(x)
    found[-1] = torch.full((2, *shape), levels - 1)
    return found


@pytest.mark.parametrize("frames", [2, 3, 7])
def test_the_first_and_the_last_are_shown_and_others_evenly(frames):
    visited = states(13)
    shown = film(iter(visited), frames, 4)
    assert shown.shape == (2, frames, 2, 3, 5) and shown.dtype == torch.int64
    for k in range(frames):
        at = round(12 * k / (frames - 1))
        assert torch.equal(shown[:, k], torch.where(visited[at] == 4, -1, visited[at]))


def test_masks_and_only_masks_are_nothing_yet():
    shown = film(states(13), 4, 4)
    assert (shown[:, 0] == -1).all() and (shown[:, -1] == 3).all() and shown.min() == -1 and shown.max() == 3
    unmasked = torch.arange(4).expand(2, 4)
    assert torch.equal(film([unmasked, unmasked], 2, 4)[:, 0], unmasked)


def test_a_short_walk_has_no_more_frames_than_states():
    visited = states(3)
    assert film(visited, 10, 4).shape[1] == 3


def test_one_frame_is_no_film():
    with pytest.raises(UserError, match="two frames"):
        film(states(3), 1, 4)
