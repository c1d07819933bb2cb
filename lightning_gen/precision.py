"""Arithmetic that its surroundings cannot change."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def full_float32(device: torch.device | str) -> Iterator[None]:
    """float32 is float32 in here, on `device`: no autocast, no TF32 (which cuDNN's convolutions have by default), no
    bfloat16 products, no other default type. Everything is as it was afterwards.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)  # the Trainer's precision bf16-true sets another
    try:
        with torch.autocast(torch.device(device).type, enabled=False), _no_shortcuts():
            yield
    finally:
        torch.set_default_dtype(default)


@contextmanager
def _no_shortcuts() -> Iterator[None]:
    backends = torch.backends
    if not hasattr(backends, "fp32_precision"):  # before torch 2.9
        precision, tf32 = torch.get_float32_matmul_precision(), backends.cudnn.allow_tf32
        try:
            torch.set_float32_matmul_precision("highest")
            backends.cudnn.allow_tf32 = False
            yield
        finally:
            torch.set_float32_matmul_precision(precision)
            backends.cudnn.allow_tf32 = tf32
        return
    switches = [backends.cuda.matmul, backends.cudnn.conv, backends.mkldnn.matmul, backends.mkldnn.conv]
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        yield
    finally:
        for switch, precision in zip(switches, before):
            switch.fp32_precision = precision
