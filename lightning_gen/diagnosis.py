"""Why a command failed, in one line that names the setting to change; a bug has no such line.

Imported only once something has failed. Each explanation below knows one kind of cause; the first that recognises an
error gives the line. What none recognises is a bug and keeps its traceback.
"""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from lightning_gen.errors import LOST, UserError
from lightning_gen.refusals import frames, links, nearest, origin, refusal


def diagnose(error: BaseException, verb: str, args: list[str]) -> str | None:
    """One line, without the program's name, for an error that the user can mend; None for a bug.

    Args:
        error: as it left the verb, with its traceback.
        verb: of the command line.
        args: the words after the verb.
    """
    found = _explained(error, verb, args)
    return None if found is None else found[1]


def status(error: BaseException, verb: str, args: list[str]) -> int:
    """The exit status of an error that has such a line: 2, or LOST where it was another rank that failed."""
    found = _explained(error, verb, args)
    return LOST if found is not None and found[0] is _lost_rank else 2


def _explained(error: BaseException, verb: str, args: list[str]) -> tuple[Any, str] | None:
    """(the explanation that knows the error, its line)."""
    chain = list(links(error))
    for explain in (
        _bad_choice,
        _refused,
        _out_of_memory,
        _unusable_file,
        _no_such_device,
        _lost_rank,
        _bad_trainer,
        _bad_optimizer,
    ):
        for link in chain:
            line = explain(link, verb, args)
            if line is not None:
                return explain, " ".join(line.split())
    return None


def rank() -> int:
    """The rank of this process among those of its run; 0 where it is alone."""
    return int(next((os.environ[name] for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID") if name in os.environ), "0"))


def rank_zero_fails_too(started_by: int, patience: float = 10.0) -> bool:
    """Whether the process that started this one, rank zero where Lightning starts the others, ends within seconds.

    What is wrong with a config every rank finds out, and rank zero says it. A rank that fails alone must say so itself.

    Args:
        started_by: id of the parent process when this one began.
        patience: seconds to wait.
    """
    deadline = time.monotonic() + patience
    while os.getppid() == started_by:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def _sentence(message: str) -> str:
    """The first sentence of a message."""
    return re.split(r"(?<=[^.][.!?])\s+(?=[A-Z])", " ".join(message.split()), maxsplit=1)[0]


def _modules(error: BaseException) -> Iterator[str]:
    for frame in frames(error):
        yield frame.f_globals.get("__name__", "")


# ---- choices ------------------------------------------------------------------------------------------------------


def _bad_choice(error: BaseException, verb: str, args: list[str]) -> str | None:
    return str(error) if isinstance(error, UserError) else None


def _refused(error: BaseException, verb: str, args: list[str]) -> str | None:
    return refusal(error, verb, args)


def _bad_optimizer(error: BaseException, verb: str, args: list[str]) -> str | None:
    """torch refuses a learning rate below zero and the like in an optimizer's constructor."""
    last = next(reversed(list(frames(error))), None)
    if not isinstance(error, ValueError) or last is None or last.f_code.co_name != "__init__":
        return None
    if not last.f_globals.get("__name__", "").startswith("torch.optim"):
        return None
    return f"model.init_args.optimizer: {_sentence(str(error))}"


# ---- the machine --------------------------------------------------------------------------------------------------

_NO_ROOM = {
    errno.ENOSPC: "no space left on the device",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than is allowed",
    errno.EROFS: "the file system is read-only",
}
_IN_THE_WAY = {
    errno.EACCES: "permission denied",
    errno.EPERM: "the operation is not permitted",
    errno.EEXIST: "a file of that name is in the way",
    errno.ENOTDIR: "a part of the path is a file",
}
_FAILED_WRITE = re.compile(r"PytorchStreamWriter failed|enforce fail at inline_container|unexpected pos \d+ vs")


def _unusable_file(error: BaseException, verb: str, args: list[str]) -> str | None:
    reason = None
    if isinstance(error, OSError):
        reason = {**_NO_ROOM, **_IN_THE_WAY}.get(error.errno or 0)
    elif isinstance(error, RuntimeError) and _FAILED_WRITE.search(str(error)):
        reason = _NO_ROOM[errno.ENOSPC]  # torch.save does not say why; this is why, in practice
    if reason is None:
        return None
    place = getattr(error, "filename2", None) or getattr(error, "filename", None) or _path_in(error)
    shown = os.fsdecode(place) if isinstance(place, (str, bytes)) else place
    if isinstance(error, PermissionError) and isinstance(shown, str) and _hidden(Path(shown)):
        return f"cannot read {shown}: {reason}"
    what = f"cannot write {shown or 'its files'}: {reason}"
    if verb != "fit" or getattr(error, "errno", None) in _IN_THE_WAY:
        return what
    return f"{what}; what was written before is whole: make room, and the same command with --run goes on"


def _hidden(path: Path) -> bool:
    """Whether this user may not look into a file or folder, or may not even come to it."""
    for place in (path, *path.parents):
        try:
            here = place.stat()
        except PermissionError:
            continue  # a folder on the way is closed: look whether it is the one above
        except OSError:
            return False  # nothing is there to be read
        return not os.access(place, os.R_OK | os.X_OK if stat.S_ISDIR(here.st_mode) else os.R_OK)
    return False


def _path_in(error: BaseException) -> str | None:
    """The path that the innermost frame which has one was writing to; errors of `write` do not name it."""
    for frame in reversed(list(frames(error))):
        for value in frame.f_locals.values():
            path = getattr(value, "name", None) if hasattr(value, "write") else value
            if isinstance(path, Path) or (isinstance(path, str) and os.path.isabs(path)):
                return str(path)
    return None


_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_SMALLER = {
    "fit": "--data.init_args.micro_batch_size (the global batch stays as it is)",
    **dict.fromkeys(("validate", "test", "predict"), "--data.init_args.eval_batch_size"),
    "benchmark": "batch_size under evaluation in the benchmark's config",
}
"""By verb, what to lower when memory runs out; `--batch_size` for the others."""
_SMALLER_WITHIN_FIT = {
    "lightning_gen.callbacks.sample_sheet": "--samples.num",
    "lightning.pytorch.loops.evaluation_loop": "--data.init_args.eval_batch_size",
}
"""The same, by the module at work while `fit` does something else than train."""


def _out_of_memory(error: BaseException, verb: str, args: list[str]) -> str | None:
    # torch.OutOfMemoryError is a RuntimeError that says so
    if not isinstance(error, MemoryError) and not (
        isinstance(error, RuntimeError) and _NO_MEMORY.search(str(error)) is not None
    ):
        return None
    within = set(_modules(error)) if verb == "fit" else set()
    lower = next((setting for module, setting in _SMALLER_WITHIN_FIT.items() if module in within), None)
    lower = lower or _SMALLER.get(verb, "--batch_size")
    wanted = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", str(error))
    amount = f" ({wanted[1]} more were needed)" if wanted else ""
    return f"out of memory on {'the GPU' if 'CUDA' in str(error) else 'this machine'}{amount}: lower {lower}"


_NO_GPU = re.compile(r"no NVIDIA driver|not compiled with CUDA|No CUDA GPUs|invalid device ordinal|no HIP GPUs", re.I)


def _no_such_device(error: BaseException, verb: str, args: list[str]) -> str | None:
    if not isinstance(error, (RuntimeError, AssertionError)) or not _NO_GPU.search(str(error)):
        return None
    setting = "--trainer.accelerator cpu" if verb in ("fit", "validate", "test", "predict") else "--device cpu"
    return f"there is no such GPU on this machine ({_sentence(str(error))}): give {setting}"


_LOST = re.compile(
    r"Connection (closed|reset|refused) by peer|\[c10d\]|Broken pipe|ProcessGroup\w+.*(timed out|aborted)", re.I
)


def _lost_rank(error: BaseException, verb: str, args: list[str]) -> str | None:
    """A collective that another rank does not answer; that rank has said why."""
    dist = sys.modules.get("torch.distributed")
    if dist is None or not isinstance(error, RuntimeError) or not dist.is_initialized():
        return None
    if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
        return None
    return f"rank {rank()} lost another rank of the run, which has said why it stopped"


# ---- the trainer --------------------------------------------------------------------------------------------------


def _bad_trainer(error: BaseException, verb: str, args: list[str]) -> str | None:
    """What Lightning raises in the Trainer's constructor is about its settings: nothing runs yet."""
    if not origin(error).startswith("lightning."):
        return None
    trace = list(frames(error))
    constructor = next((frame for frame in trace if _is(frame, "lightning.pytorch.trainer.trainer", "__init__")), None)
    if constructor is not None:
        return _bad_device(constructor.f_locals) or f"trainer: {_sentence(str(error))}"
    # Within the loop it is about what a step returned, say: a bug.
    misconfigured = any(kind.__name__ == "MisconfigurationException" for kind in type(error).__mro__)
    return _sentence(str(error)) if misconfigured and all(f.f_code.co_name != "advance" for f in trace) else None


def _is(frame: FrameType, module: str, function: str) -> bool:
    return frame.f_globals.get("__name__") == module and frame.f_code.co_name == function


def _bad_device(settings: dict[str, Any]) -> str | None:
    """What is wrong with the accelerator, the number of devices or the strategy that a Trainer was asked for."""
    from lightning.pytorch.accelerators import AcceleratorRegistry
    from lightning.pytorch.strategies import StrategyRegistry

    known = {name: AcceleratorRegistry[name]["accelerator"] for name in AcceleratorRegistry.available_accelerators()}
    here = sorted(name for name, kind in known.items() if kind.is_available())
    meant = {**{name: [name] for name in known}, "gpu": ["cuda", "mps"], "auto": here}
    for key, names in (("accelerator", meant), ("strategy", ["auto", *StrategyRegistry.available_strategies()])):
        value, one_of = settings.get(key), f": one of {', '.join(names)}"
        if isinstance(value, str) and value not in names:
            return f"there is no trainer.{key} {value!r}{nearest(value, names) or one_of}"
    accelerator, devices = settings.get("accelerator"), str(settings.get("devices"))
    if not isinstance(accelerator, str):
        return None
    usable = [name for name in meant[accelerator] if name in here]
    if not usable:
        return (
            f"there is no {accelerator} on this machine, only {', '.join(here)}: give --trainer.accelerator {here[0]}"
        )
    count = known[usable[0]].auto_device_count()
    if usable[0] != "cpu" and devices.isdigit() and int(devices) > count:
        return (
            f"trainer.devices is {devices}, but this machine has {count} of {usable[0]}: give --trainer.devices {count}"
        )
    return None
