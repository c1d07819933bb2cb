"""What a run says is kept beside it, and why it failed, in a process of its own and in this one."""

import multiprocessing
import sys

import pytest

from lightning_gen.benchmark.surroundings import failed, reason, this_process, worker
from lightning_gen.errors import Interrupted, UserError

MEMORY = "out of memory on this machine: lower batch_size under evaluation in the benchmark's config"
FATES = [
    (UserError("--num_samples 64 is too few"), True, "--num_samples 64 is too few"),
    (MemoryError(), True, MEMORY),
    (KeyError("a bug"), True, None),
    (UserError("again"), True, "again"),
    (Interrupted("stopped by SIGTERM", 143), False, None),  # it goes on
    (None, False, None),
]


def fail(surroundings, log, error):
    with surroundings(log):
        print("hear me")
        if error is not None:
            raise error


def test_what_the_user_can_mend_is_told_to_the_parent_and_a_bug_is_not(tmp_path):
    log = tmp_path / "log.txt"
    for error, broken, told in FATES:
        process = multiprocessing.get_context("fork").Process(target=fail, args=(worker, log, error))
        process.start()
        process.join()
        assert (process.exitcode, failed(log), reason(log)) == (int(error is not None), broken, told)
    said = log.read_text()
    assert said.count("hear me\n") == len(FATES) and "KeyError: 'a bug'" in said


def test_here_an_error_is_left_as_a_worker_leaves_it_and_goes_on(tmp_path, capsys):
    log = tmp_path / "run" / "log.txt"
    for error, broken, told in FATES:
        if error is None:
            fail(this_process, log, error)
        else:
            with pytest.raises(type(error)):
                fail(this_process, log, error)
        assert (failed(log), reason(log)) == (broken, told)
    said = log.read_text()
    assert said.count("hear me\n") == len(FATES) and "KeyError: 'a bug'" in said and "\nstopped by SIGTERM\n" in said
    assert capsys.readouterr().out == "hear me\n" * len(FATES)  # the errors are the command line's to say


def test_here_both_streams_are_heard_in_both_places(tmp_path, capsys):
    log = tmp_path / "log.txt"
    with this_process(log):
        print("out")
        print("err", file=sys.stderr)
        assert not sys.stdout.isatty()
    print("after")
    heard = capsys.readouterr()
    assert (heard.out, heard.err, log.read_text()) == ("out\nafter\n", "err\n", "out\nerr\n")
