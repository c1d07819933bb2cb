"""One job: the script of a template with its resources in the header, asked about or submitted."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from lightning_gen.cluster.slurm import INTERACTIVE, RESTARTS
from lightning_gen.errors import UserError
from lightning_gen.launch.resources import Resources, lead, seconds
from lightning_gen.run_directory import write_atomically

PATIENCE_S = 120.0
"""For an answer of Slurm's, whose controller may be busy."""

_BEGIN, _END = "# >>> site", "# <<< site"
_UNSPEAKABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Line breaks and other characters that would end a line of the header, or that no UTF-8 text holds."""


class Unanswered(UserError):
    """Slurm gave no answer in time: the job may have been submitted."""


@dataclass(frozen=True)
class Submission:
    """A job that can be looked at, asked about and submitted.

    Attributes:
        template: train, evaluate, array or sweep: slurm/TEMPLATE.sbatch.
        arguments: of the script.
        job_name: also that of the script and its log.
        folder: of both, JOB_NAME.sbatch and JOB_NAME.log (JOB_NAME-K.log for element K of an array); made by `submit`.
        resources: of the job.
        array: its elements as sbatch has them, such as 0-11%4.
        dependency: as sbatch has it, such as afterany:123.
        environment: of the job, above the resources' own.

    Raises:
        UserError: a name that Slurm or Lightning takes for something else, a value that a script cannot hold, or a warning
            longer than the time limit.
    """

    template: str
    arguments: Sequence[str]
    job_name: str
    folder: Path
    resources: Resources
    array: str | None = None
    dependency: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.job_name in INTERACTIVE:
            raise UserError(
                f"a job named {self.job_name!r} is taken for an interactive one, in which every task trains alone: "
                "give another --job_name"
            )
        if not re.fullmatch(r"[\w.+-]+", self.job_name):
            raise UserError(f"--job_name must be letters, digits, _ . + and -, not {self.job_name!r}")
        header = self.header()
        for name, value in header.items():
            if _UNSPEAKABLE.search(value) or (name == "output" and "\\" in value):
                what = {"chdir": "current folder", "output": "job's log"}.get(name, f"job's {name}")
                raise UserError(
                    f"the {what} would be {value!r}: a line break, another control character or, in the log's path, a "
                    "backslash means something else to Slurm; choose another name"
                )
        values = {**self.resources.variables(), **self.environment}.values()
        unwritable = next((text for text in (*self.arguments, *values) if re.search(r"[\0\ud800-\udfff]", text)), None)
        if unwritable is not None:
            raise UserError(f"{unwritable!r} is no text in UTF-8: a job's script cannot hold it")
        limit = header.get("time")
        if limit and header.get("signal") and seconds(limit) <= lead(header["signal"]):
            raise UserError(
                f"the signal comes {lead(header['signal'])} s before the end of a job that has {seconds(limit):.0f} s: give "
                "a longer --time"
            )

    @property
    def path(self) -> Path:
        """Of the rendered script."""
        return self.folder / f"{self.job_name}.sbatch"

    @property
    def log(self) -> Path:
        """Of the job; for an array with Slurm's %a for the element."""
        return self.folder / f"{self.job_name}{'-%a' if self.array else ''}.log"

    @property
    def nodes(self) -> int:
        """Machines of the job."""
        return int(self.header()["nodes"])

    @property
    def tasks_per_node(self) -> int:
        """Devices of each, or processes where there are no devices."""
        header = self.header()
        return int(header.get("gpus-per-node", header.get("ntasks-per-node", "1")).rpartition(":")[2])

    def header(self) -> dict[str, str]:
        """sbatch's options without dashes, a switch's value empty: the template's own, and over them this job's."""
        own = {
            "job-name": self.job_name,
            "chdir": str(Path.cwd()),
            "output": str(self.folder).replace("%", "%%") + f"/{self.log.name}",  # Slurm replaces %x, %j and the like
            "array": self.array,
            "dependency": self.dependency,
            **self.resources.options(),
        }
        merged = {**dict(_options(_template(self.template))), **own}
        return {name: value for name, value in merged.items() if value is not None}

    def script(self) -> str:
        """The template with this job's header, site and arguments: `sbatch` of it, wherever, submits the same job again."""
        text = _template(self.template)
        shown = [_directive(name, value) for name, value in self.header().items()]
        lines, told = [], False
        for line in text.splitlines():
            if not re.match(r"##?SBATCH ", line):
                lines.append(line)
            elif not told:
                told = True
                lines += shown
        return _with_site("\n".join(lines) + "\n", self._site())

    def check(self) -> str:
        """What Slurm says of the job, submitting nothing: when and where it would start.

        Raises:
            UserError: it would refuse the job, or there is no Slurm here.
        """
        return _sbatch(["--test-only"], self.script(), self.resources.options()).stderr.strip()

    def submit(self) -> str:
        """Writes the script, submits it and returns the job's id. A refused job leaves no new folder.

        Raises:
            UserError: Slurm refuses the job, or there is no Slurm here.
        """
        _command()
        new = [place for place in (self.path, self.folder, *self.folder.parents) if not place.exists()]
        write_atomically(self.path, self.script())
        try:
            return _id(_sbatch(["--parsable", str(self.path)], None, self.resources.options()))
        except Unanswered:
            raise
        except UserError:
            with suppress(OSError):  # of a folder that another command has filled meanwhile
                for place in new:
                    place.unlink() if place == self.path else place.rmdir()
            raise

    def _site(self) -> list[str]:
        lines = self.resources.site()
        if not lines:  # the template's own, and the interpreter at hand
            lines = _site_of(_template(self.template)).splitlines()
            lines.append(f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"')
        variables = {**self.resources.variables(), **self.environment}
        # above the template's own lines, whose variables are defaults
        lines = [*(f"export {name}={shlex.quote(value)}" for name, value in variables.items()), *lines]
        return [*lines, f"set -- {shlex.join(self.arguments)}"]


def submit_again(script: Path, dependency: str) -> str:
    """Submits what `Submission.submit` wrote before, to wait for other jobs; its id.

    Args:
        dependency: as sbatch has it, such as afterany:123, instead of its own.

    Raises:
        UserError: there is no such script, Slurm refuses the job, or there is no Slurm here.
    """
    if not script.is_file():
        raise UserError(f"there is no script {script} to submit again")
    options = dict(_options(script.read_text()))
    return _id(_sbatch(["--parsable", f"--dependency={dependency}", str(script)], None, options))


def _id(made: subprocess.CompletedProcess[str]) -> str:
    return made.stdout.strip().partition(";")[0]


def _template(name: str) -> str:
    """The text of slurm/NAME.sbatch: of the project at hand, or of the one that this package lies in."""
    folders = [Path.cwd() / "slurm", Path(__file__).resolve().parents[2] / "slurm"]
    for folder in folders:
        if (folder / f"{name}.sbatch").is_file():
            return (folder / f"{name}.sbatch").read_text()
    raise UserError(f"there is no template {folders[0] / name}.sbatch: launch from the project's root")


def _options(template: str) -> list[tuple[str, str]]:
    """(option, value) of a script's header, comments cut off.

    Raises:
        UserError: a line that is not --NAME or --NAME=VALUE.
    """
    found = []
    header = re.match(r"(?:#.*(?:\n|$)|[ \t]*\n)*", template)[0]  # Slurm reads up to the first command
    for line in re.findall(r"^#SBATCH (.*)", header, re.MULTILINE):
        words = shlex.split(line, comments=True)
        match = re.fullmatch(r"--([\w-]+)(?:=(.*))?", words[0]) if len(words) == 1 else None
        if match is None:
            raise UserError(
                f"the template's line '#SBATCH {line.strip()}' must be written as --NAME=VALUE, one option a line"
            )
        found.append((match[1], match[2] or ""))
    return found


def _directive(name: str, value: str) -> str:
    """A line of the header. A backslash keeps the next character's special meaning from Slurm and from `_options`."""
    quoted = re.sub(r"[^\w%@+=:,./-]", r"\\\g<0>", value)
    return f"#SBATCH --{name}" + (f"={quoted}" if value else "")


def _site_of(template: str) -> str:
    return template.partition(f"{_BEGIN}\n")[2].partition(_END)[0]


def _with_site(template: str, lines: Sequence[str]) -> str:
    before, _, rest = template.partition(f"{_BEGIN}\n")
    return before + "\n".join([_BEGIN, *lines, ""]) + _END + rest.partition(_END)[2]


def _command() -> str:
    found = shutil.which("sbatch")
    if found is None:
        raise UserError(
            "there is no Slurm here (no command sbatch): launch on a login node of the cluster; --dry-run prints the script"
        )
    return found


def _sbatch(arguments: Sequence[str], script: str | None, options: Iterable[str]) -> subprocess.CompletedProcess[str]:
    """Runs sbatch. A job within a job is none of the outer one's, and of sbatch's own variables those are left out that
    would win over what was asked for here."""
    names = {"time": "TIMELIMIT", "mem": "MEM_PER_NODE"}
    ours = {"SBATCH_" + names.get(name, name.upper().replace("-", "_")) for name in options}
    outer = {
        name: value
        for name, value in os.environ.items()
        if name not in (*ours, RESTARTS) and (name == "SLURM_CONF" or not name.startswith("SLURM_"))
    }
    command = [_command(), *arguments]
    try:
        made = subprocess.run(
            command, input=script, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=outer
        )
    except subprocess.TimeoutExpired as error:
        raise Unanswered(
            f"sbatch has not answered for {PATIENCE_S:.0f} s: see whether it did with squeue --me"
        ) from error
    if made.returncode:
        said = " ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in made.stderr.splitlines())
        raise UserError(f"Slurm refuses the job: {said or f'sbatch ended with {made.returncode}'}")
    return made
