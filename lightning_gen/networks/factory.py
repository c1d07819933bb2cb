"""Networks from a user's factory, checked against the way in which their family builds and calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor, nn

from lightning_gen.errors import UserError


@dataclass(frozen=True)
class Convention:
    """How a family builds a part and calls it.

    Attributes:
        built: parameters of the constructor, beside settings.
        called: parameters of `forward`; empty where a caller may leave some out.
        name: stands for the class in messages.
        needs: attributes that the family reads.
    """

    built: str
    called: str = ""
    name: str = "Net"
    needs: tuple[str, ...] = ()

    def __str__(self) -> str:
        called = f" and called as {self.name.lower()}({self.called})" if self.called else ""
        return f"it is built as {self.name}({self.built}){called}"


NOISY = Convention("shape, out_channels, cond_dim", "x, logsnr, cond")
"""Networks of a noisy example."""
MAP = Convention("in_shape, out_shape, cond_dim", "x, cond")
"""Networks from one shape to another."""
MAP_WITH_OUTPUT = Convention("in_shape, out_shape, cond_dim", "x, cond", needs=("output",))
"""The same where the family sets the start of the last layer."""
BLOCK = Convention("in_shape, out_shape, cond_dim, width", "x, cond", "Block")
BIJECTION = Convention("shape, cond_dim", "x, cond", "Flow")
CONDITIONER = Convention("num_classes", name="Conditioner", needs=("dim", "null"))


def made(factory: Callable[..., nn.Module], *given: Any, key: str = "network", like: Convention = NOISY) -> Any:
    """factory(*given), a network that can be called as its family will.

    Args:
        key: names the network in messages.
        like: how it is built and called.

    Raises:
        UserError: its constructor or its `forward` does not take these arguments. A bug inside of them keeps its traceback.
    """
    try:
        network = factory(*given)
    except TypeError as error:
        *_, last = _frames(error)
        if last.f_globals["__name__"] == __name__ or last.f_globals["__name__"].startswith("jsonargparse"):
            raise UserError(f"{key}: {error}; {like}") from error
        error.add_note(f"{key}: {like}")
        raise
    for name in like.needs:
        if not hasattr(network, name):
            raise UserError(
                f"{key}: {type(network).__name__} has no attribute {name!r}, which this family needs; {like}"
            )
    if like.called:
        _check_call(network, key, like)
    return network


def _frames(error: BaseException) -> Iterator[FrameType]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _check_call(network: Any, key: str, like: Convention) -> None:
    try:
        signature = inspect.signature(getattr(network, "forward", network))
    except ValueError:  # written in C, say
        return
    try:
        signature.bind(*like.called.split(", "))
    except TypeError as error:
        raise UserError(f"{key}: {type(network).__name__}.forward takes {signature}; {like}") from error


def checked(network: Any, out: Any, shape: tuple[int, ...], like: Convention = NOISY) -> Tensor:
    """`out`, what a network returned.

    Raises:
        UserError: it is no tensor of that shape; another one would be broadcast without a word.
    """
    if isinstance(out, Tensor) and tuple(out.shape) == tuple(shape):
        return out
    found = f"shape {list(out.shape)}" if isinstance(out, Tensor) else f"a {type(out).__name__}"
    name = type(network).__name__
    raise UserError(f"network: {name}({like.called}) returned {found}, not a tensor of shape {list(shape)}; {like}")
