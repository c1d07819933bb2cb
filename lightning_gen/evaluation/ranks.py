"""Several processes that measure one model: who they are, which share each has, and how they meet.

Within its share a rank is alone: samples and examples are keyed by their index, a sampler may take as many steps as it
likes, and no collective is in its way. The ranks meet when a share is done, and there a failure in one becomes the
failure of all.
"""

from __future__ import annotations

import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from lightning_gen.errors import UserError
from lightning_gen.processes import Failure, run_together

ARRIVAL = timedelta(minutes=5)
"""How long the ranks wait for each other at the start."""

PATIENCE = timedelta(days=7)
"""How long a rank that has done its share waits for the others; one that dies breaks the connection at once."""

T = TypeVar("T")

_PRELOAD = "lightning_gen.evaluation.sample"
_FAILED = "failed"


class _AllFailed(Exception):
    """A failure that all ranks know of."""

    def __init__(self, failure: Failure) -> None:
        super().__init__()
        self.failure = failure


class _FailedElsewhere(Exception):
    """Another rank has failed: no use to go on."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that measure together; by default it is alone, and nothing here costs anything.

    Attributes:
        rank: of this process, in {0..size-1}.
        size: number of processes.
        local_rank: of this process on its machine.
        store: where they leave word for each other, a `torch.distributed.Store`; None for one process, and for those
            that hear of another's failure only when they meet.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    store: Any = None

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes and speaks."""
        return self.rank == 0

    def share(self, total: int) -> range:
        """This rank's indices among `total`: [r N // W, (r + 1) N // W), none where there are more ranks than indices."""
        return range(self.rank * total // self.size, (self.rank + 1) * total // self.size)

    def watching(self, advance: Callable[[int], Any]) -> Callable[[int], Any]:
        """`advance`, called after each batch of a share, which also stops this rank if another has failed; waits for none."""
        if self.store is None:
            return advance

        def watched(num: int) -> None:
            if self.store.check([_FAILED]):
                raise _FailedElsewhere
            advance(num)

        return watched

    def exchange(self, value: Any = None) -> list[Any]:
        """The values of all ranks, in their order, on all of them: here they wait for each other."""
        return [value] if self.size == 1 else self._exchange(value, None)

    def gather(self, value: Any) -> list[Any] | None:
        """The values of all ranks, in their order, on the first; None on the others."""
        if self.size == 1:
            return [value]
        self.exchange()
        values = [None] * self.size if self.first else None
        dist.gather_object(value, values, dst=0)
        return values

    def fail(self, error: Exception) -> None:
        """Tells the others. Always raises: the error of the lowest rank that has one, on all ranks."""
        if isinstance(error, _FailedElsewhere):
            self._exchange(None, None)
        if self.store is not None:
            self.store.set(_FAILED, "")
        self._exchange(None, Failure(error))

    def agreed(self, function: Callable[[], T]) -> T:
        """What `function()` returns on this rank; where it fails on any, that error is raised on all."""
        if self.size == 1:
            return function()
        try:
            try:
                result = function()
                self.exchange()
                return result
            except _AllFailed:
                raise
            except Exception as error:
                self.fail(error)
                raise
        except _AllFailed as failed:
            error = failed.failure.error()
            raise error from error.__cause__

    def _exchange(self, value: Any, failure: Failure | None) -> list[Any]:
        met: list[Any] = [None] * self.size
        try:
            dist.all_gather_object(met, (value, failure))
        except RuntimeError as error:
            lost = UserError("a process of this command has died; if memory was short, lower --batch_size")
            lost.__cause__ = error
            raise _AllFailed(Failure(lost)) from error
        for _, found in met:
            if found is not None:
                raise _AllFailed(found)
        return [value for value, _ in met]


ALONE = Ranks()


def run(
    function: Callable[..., Any], kwargs: Mapping[str, Any], device: str = "auto", devices: int = 1, num_nodes: int = 1
) -> Any:
    """What `function(ranks, device, **kwargs)` returns on rank zero, on as many processes as asked for; None on others.

    One device and no launcher: a plain call. Several devices: this process starts one for each and waits. Under torchrun
    or srun each process is one rank. An error in one rank is raised by rank zero alone; the others leave by SystemExit.

    Args:
        function: importable, its arguments pickled.
        kwargs: of the function.
        device: "auto", "cpu", "cuda"; a single process may also name one, as "cuda:1".
        devices: processes on each machine.
        num_nodes: machines; above one, torchrun or srun must start the processes.

    Raises:
        UserError: numbers that contradict the launcher's, or a device that is not there.
    """
    if devices < 1 or num_nodes < 1:
        raise UserError(f"--devices and --num_nodes must be at least 1, not {devices} and {num_nodes}")
    place = _launched()
    if place is None and num_nodes > 1:
        raise UserError(
            f"--num_nodes {num_nodes} needs a launcher that starts the command on every node: torchrun or srun"
        )
    if place is None and devices > 1:
        return _launch(function, kwargs, device, devices)
    if place is None:
        return function(ALONE, pick_device(device), **kwargs)
    if devices * num_nodes not in (1, place["size"]):
        raise UserError(
            f"the launcher started {place['size']} processes, but --devices {devices} --num_nodes {num_nodes} asks for "
            f"{devices * num_nodes}: leave both out"
        )
    if place["rank"]:
        warnings.simplefilter("ignore")  # rank zero says what all would
    try:
        with _joined(**place, backend=_backend(device)) as ranks:
            try:
                result = function(ranks, pick_device(device, ranks), **kwargs)
                ranks.exchange()
                return result if ranks.first else None
            except _AllFailed:
                raise
            except Exception as error:
                ranks.fail(error)
    except _AllFailed as failed:
        error = failed.failure.error()
        if place["rank"]:
            raise SystemExit(2 if isinstance(error, UserError) else 1) from None
        raise error from error.__cause__


def pick_device(name: str, ranks: Ranks = ALONE) -> torch.device:
    """`auto` is the first GPU, or the CPU; of several processes each has its own GPU.

    Raises:
        UserError: no such device, or fewer than processes.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        if ranks.size > 1 and device.index is not None:
            raise UserError(f"several processes need the kind of device, --device {device.type}, not {name!r}")
        if ranks.size > 1 and device.type == "cuda":
            device = _own_gpu(ranks)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
        raise UserError(f"there is no device {name!r} here ({reason}): give --device cpu") from error
    return device


def _own_gpu(ranks: Ranks) -> torch.device:
    """The GPU of this rank: that of its local number, or the only one that it is shown."""
    count = torch.cuda.device_count()
    index = ranks.local_rank if count != 1 else 0
    own = (socket.gethostname(), str(torch.cuda.get_device_properties(index).uuid)) if index < count else None
    everybody = ranks.exchange(own)
    if None in everybody or len(set(everybody)) < ranks.size:
        raise UserError(
            f"{ranks.size} processes need a GPU each, and {len(set(everybody) - {None})} are there: start fewer "
            "(--devices), or give --device cpu"
        )
    torch.cuda.set_device(index)
    return torch.device("cuda", index)


def _backend(device: str) -> str:
    """Objects and sums on the CPU go through gloo; sums on a GPU stay there and go through NCCL."""
    wants = device == "auto" or device.startswith("cuda")
    return "cpu:gloo,cuda:nccl" if wants and torch.cuda.is_available() and dist.is_nccl_available() else "gloo"


def _launched() -> dict[str, Any] | None:
    """rank, size, local_rank and (host, port) of the meeting place as torchrun or srun tell them; None without either."""
    env = os.environ
    if "RANK" in env and int(env.get("WORLD_SIZE", "1")) > 1:  # a fit in this process leaves WORLD_SIZE alone behind
        missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in env]
        if missing:
            raise UserError(
                f"RANK and WORLD_SIZE are set, but not {' and '.join(missing)}: start with torchrun, or unset"
            )
        address = env["MASTER_ADDR"], int(env["MASTER_PORT"])
        return _place(env["RANK"], env["WORLD_SIZE"], env.get("LOCAL_RANK", "0"), address)
    # within a batch script, outside srun, the job's number of tasks is told too: there is one process then
    alone = "SLURM_JOB_ID" in env and "SLURM_STEP_ID" not in env
    if "SLURM_PROCID" in env and int(env.get("SLURM_NTASKS", "1")) > 1 and not alone:
        from lightning.fabric.plugins.environments import SLURMEnvironment

        nodes = env.get("SLURM_STEP_NODELIST") or env.get("SLURM_NODELIST", "127.0.0.1")
        host = env.get("MASTER_ADDR") or SLURMEnvironment.resolve_root_node_address(nodes)
        # a port that all tasks can tell and that another job on the node hardly has: Lightning's rule
        address = host, int(env.get("MASTER_PORT") or 15000 + int(env.get("SLURM_JOB_ID", "0")[-4:]))
        return _place(env["SLURM_PROCID"], env["SLURM_NTASKS"], env.get("SLURM_LOCALID", "0"), address)
    return None


def _place(rank: str, size: str, local_rank: str, address: tuple[str, int]) -> dict[str, Any]:
    return {"rank": int(rank), "size": int(size), "local_rank": int(local_rank), "address": address}


@contextmanager
def _joined(rank: int, size: int, local_rank: int, address: tuple[str, int], backend: str) -> Iterator[Ranks]:
    """This process as one of a process group, for the time being."""
    # under torchrun, and under `_launch`, whoever started the ranks serves the store; else rank zero does
    url = f"tcp://{address[0]}:{address[1]}"
    try:
        store, _, _ = next(dist.rendezvous(url, rank, size, timeout=ARRIVAL))
        store = dist.PrefixStore("lightning_gen", store)
        store.set(f"rank {rank}", "")
        store.wait([f"rank {r}" for r in range(size)], ARRIVAL)
    except RuntimeError as error:
        raise UserError(
            f"the {size} processes did not all meet at {address[0]}:{address[1]} within {ARRIVAL.seconds // 60} minutes: "
            f"was the command started by torchrun or srun for all of them? ({str(error).splitlines()[0]})"
        ) from error
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    try:
        yield Ranks(rank, size, local_rank, store)
    finally:
        dist.destroy_process_group()


def _launch(function: Callable[..., Any], kwargs: Mapping[str, Any], device: str, devices: int) -> Any:
    """Starts a process for each device, as torchrun would, and waits for them."""
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    common = {
        "WORLD_SIZE": str(devices),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    environments = [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(devices)]
    given = {"function": function, "kwargs": kwargs, "device": device, "devices": devices}
    return run_together(_launched_rank, given, environments, _PRELOAD)


def _launched_rank(devices: int, **given: Any) -> Any:
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // devices))
    return run(**given, devices=devices)
