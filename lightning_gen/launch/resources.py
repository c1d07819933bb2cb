"""What a job needs of a cluster, and how its site is set up: a file of configs/cluster/, with flags above it."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from lightning_gen.errors import UserError
from lightning_gen.refusals import nearest

_NUMBERS = ("nodes", "tasks_per_node", "cpus_per_task", "max_restarts")
_OPTIONS = ("nodes", "mem", "time", "partition", "account", "qos", "constraint", "signal")
"""Fields that are sbatch's options under the same name; those of devices, tasks and CPUs belong together."""

LEAD_S = 120
"""The shortest warning, in seconds, that leaves time to save: the signal may also come a minute early, or late."""


@dataclass(frozen=True)
class Resources:
    """Of one job; what is None is as the template has it.

    Attributes:
        nodes: machines.
        gpus_per_node: devices of each, 8 or h100:8; 0 where there are none.
        tasks_per_node: processes on each node. One a device: without GPUs it is what counts the devices.
        cpus_per_task: CPUs of each.
        mem: memory of a node, as sbatch has it: 64G, or 0 for all of it.
        time: limit, as sbatch has it: minutes, H:MM:SS, D-HH.
        partition, account, qos, constraint: as sbatch has them.
        signal: NAME@SECONDS: which signal tells the tasks to save and leave, and how long before the limit.
        max_restarts: how often the script has the job start again.
        sbatch: further options, such as --exclusive or --reservation=NAME.
        modules: to load.
        setup: lines of shell that run before the program, such as `. .venv/bin/activate`.
        container: what stands before `python`, such as `apptainer exec --nv image.sif`.
        environment: variables of the job.

    Raises:
        UserError: a value that cannot be, or values that contradict each other.
    """

    nodes: int | None = None
    gpus_per_node: int | str | None = None
    tasks_per_node: int | None = None
    cpus_per_task: int | None = None
    mem: str | None = None
    time: str | None = None
    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    signal: str | None = None
    max_restarts: int | None = None
    sbatch: list[str] = field(default_factory=list)
    modules: list[str] = field(default_factory=list)
    setup: list[str] = field(default_factory=list)
    container: str | None = None
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in _NUMBERS:
            value = getattr(self, name)
            if value is not None and value < (name != "max_restarts"):
                raise UserError(f"{name} must be at least {int(name != 'max_restarts')}, not {value}")
        if self.gpus_per_node is not None and not re.fullmatch(r"(\w[\w.-]*:)?\d+", str(self.gpus_per_node)):
            raise UserError(
                f"gpus_per_node must be a number, or a kind and a number as h100:8, not {self.gpus_per_node!r}"
            )
        if self.gpus and self.tasks_per_node not in (None, self.gpus):
            raise UserError(
                f"tasks_per_node is {self.tasks_per_node} and gpus_per_node {self.gpus_per_node}: one task a GPU, so leave "
                "tasks_per_node out, or set gpus_per_node to 0"
            )
        if self.time is not None:
            seconds(self.time)
        if self.signal is not None:
            lead(self.signal)
        for name in _OPTIONS:
            if not re.fullmatch(r"[^\s\"'\\]+", str(getattr(self, name) or "-")):
                raise UserError(f"{name} must be one word, not {getattr(self, name)!r}")
        for option in self.sbatch:
            if not re.fullmatch(r"--[a-z][a-z-]*(=\S+)?", option):
                raise UserError(f"sbatch must hold options such as --exclusive or --reservation=NAME, not {option!r}")
        for name in self.environment:
            if not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII):
                raise UserError(f"environment names a variable {name!r}, which is no name of one")

    @property
    def gpus(self) -> int | None:
        """GPUs of a node as a number; None where the template decides."""
        return None if self.gpus_per_node is None else int(str(self.gpus_per_node).rpartition(":")[2])

    @classmethod
    def read(cls, cluster: str | Path | None = None, flags: Mapping[str, Any] | None = None) -> Self:
        """What the file says, and above it those flags that are not None.

        Raises:
            UserError: there is no such file, it is no YAML, or it has a key or a value that cannot be.
        """
        said = {name: value for name, value in (flags or {}).items() if value is not None}
        if cluster is None:
            return cls(**said)
        content = _of_file(Path(cluster))
        try:
            own = {name: _value(name, text) for name, text in content.items()}
            cls(**own)
        except UserError as error:
            raise UserError(f"{cluster}: {error}") from None
        if "gpus_per_node" in said:
            own.pop("tasks_per_node", None)  # which was the number of the file's own devices
        return cls(**{**own, **said})

    def options(self) -> dict[str, str | None]:
        """sbatch's options, without dashes, in place of a template's own; what is None is left out there."""
        found: dict[str, str | None] = {
            name: str(getattr(self, name)) for name in _OPTIONS if getattr(self, name) is not None
        }
        if self.gpus == 0:
            found |= {"gpus-per-node": None, "cpus-per-gpu": None, "ntasks-per-node": str(self.tasks_per_node or 1)}
        elif self.gpus:
            found["gpus-per-node"] = str(self.gpus_per_node)
        if self.cpus_per_task is not None:
            found["cpus-per-task" if self.gpus == 0 else "cpus-per-gpu"] = str(self.cpus_per_task)
        for option in self.sbatch:
            name, _, value = option.removeprefix("--").partition("=")
            found[name] = value
        return found

    def variables(self) -> dict[str, str]:
        """The job's environment: the file's own, and what the templates read."""
        found = {} if self.signal is None else {"LIGHTNING_GEN_SIGNAL": self.signal.partition("@")[0]}
        return (
            found | ({} if self.max_restarts is None else {"MAX_RESTARTS": str(self.max_restarts)}) | self.environment
        )

    def site(self) -> list[str]:
        """Lines of shell that make the program be found; none where nothing is said of it."""
        lines = [f"module load {shlex.join(self.modules)}"] if self.modules else []
        lines += self.setup
        return [*lines, f"container=({self.container or ''})"] if lines or self.container else []


def seconds(limit: str) -> float:
    """Of sbatch's minutes, minutes:seconds, hours:minutes:seconds, days-hours[:minutes[:seconds]]; infinity of 0 and UNLIMITED.

    Raises:
        UserError: it is none of these.
    """
    if limit.upper() in ("UNLIMITED", "INFINITE", "0"):
        return float("inf")
    match = re.fullmatch(r"(?:(\d+)-)?(\d+(?::\d+){0,2})", limit)
    if match is None:
        raise UserError(f"time must be minutes, hours:minutes:seconds or days-hours, not {limit!r}")
    parts = [int(part) for part in match[2].split(":")]
    if match[1] is not None:  # they begin with the hours
        hours, minutes, rest = (*parts, 0, 0)[:3]
        return 86400.0 * int(match[1]) + 3600 * hours + 60 * minutes + rest
    hours, minutes, rest = (0, *parts, 0)[:3] if len(parts) < 3 else parts
    return 3600.0 * hours + 60 * minutes + rest


def lead(signal: str) -> int:
    """Seconds of warning that sbatch's NAME@SECONDS gives.

    Raises:
        UserError: it goes to the script alone, names no signal, or leaves no time to save.
    """
    if signal.startswith("B:"):
        raise UserError(f"signal is {signal!r}: B: sends it to the script alone, and the tasks must save; leave B: out")
    match = re.fullmatch(r"([A-Z]+[0-9]?)@(\d+)", signal)
    if match is None:
        raise UserError(f"signal must be a name and seconds such as USR1@300, not {signal!r}")
    if int(match[2]) < LEAD_S:
        raise UserError(f"signal is {signal!r}: less than {LEAD_S} s is too short to save and leave in; USR1@300, say")
    return int(match[2])


def _of_file(path: Path) -> dict[str, Any]:
    try:
        # As text: YAML takes 12:00:00 for a number of base 60.
        content = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    except FileNotFoundError as error:
        hint = nearest(str(path), [str(file) for file in path.parent.glob("*.yaml")]) or ": see configs/cluster/"
        raise UserError(f"there is no cluster config {path}{hint}") from error
    except OSError as error:
        raise UserError(f"cannot read the cluster config {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}," if mark is not None else ""
        raise UserError(f"{path}{where} is not YAML: {getattr(error, 'problem', error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a cluster config: it has no keys")
    known = {each.name for each in dataclasses.fields(Resources)}
    for key in content.keys() - known:
        raise UserError(f"{path} has no key {key!r}{nearest(key, known)}: it has {', '.join(sorted(known))}")
    return {key: value for key, value in content.items() if value not in ("", "null", "~")}


def _value(name: str, text: Any) -> Any:
    """A value of a file, which is text, a list of texts or a dictionary of them, as the field `name` has it."""
    kind = {"environment": dict, "sbatch": list, "modules": list, "setup": list}.get(name, str)
    parts = text.values() if isinstance(text, dict) else text if isinstance(text, list) else []
    if not isinstance(text, kind) or not all(isinstance(part, str) for part in parts):
        wanted = {dict: "names with a value each", list: "a list of words", str: "one value"}[kind]
        raise UserError(f"{name} must be {wanted}, not {text!r}")
    if name not in _NUMBERS and not (name == "gpus_per_node" and text.isdigit()):
        return text
    if not text.isdigit():
        raise UserError(f"{name} must be a whole number, not {text!r}")
    return int(text)
