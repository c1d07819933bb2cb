"""What the machine does to a run is said in one line that names the setting to change; a bug is left alone."""

import errno
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from lightning_gen.diagnosis import diagnose, rank, rank_zero_fails_too
from lightning_gen.errors import UserError
from lightning_gen.run_directory import write_atomically


def raised(function, *args, **kwargs):
    """The error that a call ends with, with its traceback."""
    try:
        function(*args, **kwargs)
    except Exception as error:
        return error
    raise AssertionError("nothing was raised")


def throw(error, cause=None):
    raise error from cause


def line(error, verb="fit"):
    return diagnose(raised(throw, error) if error.__traceback__ is None else error, verb, [])


@pytest.mark.parametrize(
    "bug",
    [
        AttributeError("'Tensor' object has no attribute 'y'"),
        ValueError("Expected input batch_size (3) to match target batch_size (4)."),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        TypeError("forward() missing 1 required positional argument"),
        KeyError("x"),
        FileNotFoundError(errno.ENOENT, "No such file or directory", "x"),
        ModuleNotFoundError("No module named 'mine'"),
        AssertionError("nothing"),
        OSError(errno.EBADF, "Bad file descriptor"),
        MisconfigurationException("raised by a user's own class"),
        UnicodeDecodeError("utf-8", b"\x89", 0, 1, "invalid start byte"),
    ],
    ids=lambda e: type(e).__name__,
)
def test_a_bug_has_no_line(bug):
    assert line(bug) is None


def test_bad_input_shows_through_what_it_caused_but_not_through_a_bug_beside_it():
    assert line(raised(throw, ValueError("wrapped"), UserError("batch_size  is\nodd"))) == "batch_size is odd"

    def clumsy():
        try:
            throw(UserError("this one is handled"))
        except UserError:
            {}["a bug in the handler"]

    assert line(raised(clumsy)) is None


def test_a_constructed_optimizer_refuses_its_settings():
    weights = [torch.nn.Parameter(torch.zeros(1))]
    said = line(raised(torch.optim.AdamW, weights, lr=-1.0))
    assert "model.init_args.optimizer" in said and "learning rate" in said

    def configure_optimizers():
        torch.optim.AdamW(weights).add_param_group({"params": weights})

    assert line(raised(configure_optimizers)) is None  # the user's own mistake

    class Mine:
        def __init__(self):
            raise ValueError("Invalid learning rate: -1.0")

    assert line(raised(Mine)) is None


# ---- the disk -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.EACCES])
def test_what_could_not_be_written_is_named(code):
    said = line(OSError(code, os.strerror(code), "runs/a/metrics.csv"))
    assert said.startswith("cannot write runs/a/metrics.csv: ")
    assert ("--run goes on" in said) == (code != errno.EACCES)
    assert "--run" not in line(OSError(code, os.strerror(code), "a.json"), "evaluate")


def test_a_copy_names_where_it_went():
    assert "cannot write runs/a.ckpt:" in line(OSError(errno.ENOSPC, "No space", "/tmp/b", None, "runs/a.ckpt"))


def in_child(prepare, action):
    """Runs both in a forked child; returns what is said of the error of `action`."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            prepare()
            os.write(write, (line(raised(action)) or "no line").encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    os.close(write)
    with os.fdopen(read) as pipe:
        return pipe.read()


def full_disk(action):
    """What is said of the error of `action` where a file may have 4096 bytes."""

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    return in_child(limit, action)


@pytest.mark.parametrize(
    ("action", "said"),
    [
        (lambda: Path("closed.csv").read_text(), "cannot read closed.csv: "),
        (lambda: os.listdir("closed"), "cannot read closed: "),
        (lambda: Path("closed/config.yaml").read_text(), "cannot read closed/config.yaml: "),
        (lambda: Path("whole.csv").write_text("more"), "cannot write whole.csv: "),
        (lambda: Path("new.csv").touch(), "cannot write new.csv: "),
        (lambda: os.mkdir("new"), "cannot write new: "),
    ],
)
def test_what_may_not_be_read_is_told_from_what_may_not_be_written(tmp_path, action, said):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "config.yaml").touch()
    for name, mode in {"closed.csv": 0o200, "whole.csv": 0o444}.items():
        (tmp_path / name).touch(mode)
        (tmp_path / name).chmod(mode)
    (tmp_path / "closed").chmod(0)

    def become_nobody():
        os.chdir(tmp_path)
        os.chmod(".", 0o555)
        if os.geteuid() == 0:  # whom no mode stops
            os.setgroups([])
            os.setuid(65534)

    try:
        assert in_child(become_nobody, action) == f"{said}permission denied"
    finally:
        for place in (tmp_path, tmp_path / "closed"):  # pytest must be able to remove them
            place.chmod(0o755)


def test_a_file_too_large_is_named_though_its_error_names_none(tmp_path):
    target = tmp_path / "metrics.csv"
    target.write_text("whole")
    said = full_disk(lambda: write_atomically(target, "x" * 10_000))
    assert said.startswith(f"cannot write {tmp_path}") and "larger than is allowed" in said
    assert target.read_text() == "whole" and os.listdir(tmp_path) == ["metrics.csv"]


def test_a_checkpoint_too_large_is_named(tmp_path):
    target = tmp_path / "step.ckpt"
    assert full_disk(lambda: torch.save(torch.zeros(9999), target)).startswith(f"cannot write {target}: ")


# ---- memory ---------------------------------------------------------------------------------------------------------

NO_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 15.8 GiB"),
    MemoryError(),
]


@pytest.mark.parametrize("error", NO_MEMORY, ids=["gpu", "host"])
@pytest.mark.parametrize(
    ("verb", "setting"),
    [
        ("fit", "--data.init_args.micro_batch_size"),
        ("validate", "--data.init_args.eval_batch_size"),
        ("test", "--data.init_args.eval_batch_size"),
        ("predict", "--data.init_args.eval_batch_size"),
        ("evaluate", "--batch_size"),
        ("sample", "--batch_size"),
        ("benchmark", "batch_size under evaluation"),
    ],
)
def test_out_of_memory_says_what_to_lower(error, verb, setting):
    said = line(error, verb)
    assert f"lower {setting}" in said
    assert ("20.00 GiB" in said and "the GPU" in said) == isinstance(error, torch.OutOfMemoryError)


def test_the_allocators_own_error_is_known():
    error = raised(torch.empty, 2**60, dtype=torch.uint8)
    assert "micro_batch_size" in line(error) and "this machine" in line(error)


def test_out_of_memory_in_validation_says_so(model, data, trainer):
    """The same error, raised where a step is trained and where one is validated."""
    for stage, setting in (("training", "micro_batch_size"), ("validation", "eval_batch_size")):
        module = model()
        setattr(module, f"{stage}_step", lambda *_: torch.empty(2**60, dtype=torch.uint8))
        said = line(raised(trainer(2, val_every=1).fit, module, datamodule=data()))
        assert setting in said, (stage, said)


# ---- the trainer and its devices ------------------------------------------------------------------------------------


def test_a_missing_accelerator_is_named_with_what_there_is():
    missing = next(name for name in ("tpu", "mps", "cuda") if name != "cuda" or not torch.cuda.is_available())
    said = line(raised(Trainer, accelerator=missing, logger=False))
    assert missing in said and "--trainer.accelerator" in said and "cpu" in said


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_more_gpus_than_there_are():
    count = torch.cuda.device_count()
    said = line(raised(Trainer, accelerator="gpu", devices=count + 1, logger=False))
    assert f"trainer.devices is {count + 1}" in said and f"--trainer.devices {count}" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_tensor_on_a_gpu_that_is_not_there():
    error = raised(torch.zeros, 1, device="cuda")
    assert "--trainer.accelerator cpu" in line(error) and "--device cpu" in line(error, "evaluate")


def test_lightnings_own_words_are_one_sentence():
    said = line(raised(Trainer, strategy="fsdp", accelerator="cpu", logger=False))
    assert said.startswith("trainer: ") and "requires a GPU" in said and "Please" not in said


def test_what_a_step_returned_is_a_bug_not_a_setting(model, data, trainer):
    module = model()
    module.training_step = lambda *_: {"no": "loss"}
    error = raised(trainer(1).fit, module, datamodule=data())
    assert isinstance(error, MisconfigurationException) and line(error) is None


# ---- several ranks --------------------------------------------------------------------------------------------------


def test_the_rank_is_what_the_launcher_says(monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    assert rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert rank() == 1
    monkeypatch.setenv("RANK", "9")  # of all nodes
    assert rank() == 9


def test_a_rank_speaks_up_only_where_rank_zero_goes_on():
    assert not rank_zero_fails_too(os.getppid(), patience=0.01)  # this test's parent lives
    assert rank_zero_fails_too(os.getppid() + 1, patience=60)  # what started this one has gone
