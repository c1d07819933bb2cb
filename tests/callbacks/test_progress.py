import io
import re
import sys

import pytest

from lightning_gen.callbacks import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def lines(capsys) -> list[str]:
    return [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]


def test_where_there_is_no_terminal_it_prints_lines(trainer, model, data, capsys):
    trainer(3, Progress(every_s=0.0), enable_progress_bar=True).fit(model(), data())
    printed = lines(capsys)
    assert [re.match(r"step (\d+) of 3, [\d.]+ steps/s", line)[1] for line in printed] == ["1", "2", "3"]
    assert all("left" in line for line in printed)
    assert re.search(r"train/loss [\d.e-]+$", printed[-1])  # of the step before, which has been logged


def test_lines_are_no_more_frequent_than_asked(trainer, model, data, capsys):
    trainer(3, Progress(every_s=1e6), enable_progress_bar=True).fit(model(), data())
    assert lines(capsys) == []


def test_a_run_without_an_end_promises_none(trainer, model, data, capsys):
    from datetime import timedelta

    trainer(-1, Progress(every_s=0.0), enable_progress_bar=True, max_time=timedelta(seconds=0.05)).fit(model(), data())
    printed = lines(capsys)
    assert printed and not any("-1" in line or "left" in line for line in printed)


@pytest.mark.parametrize("terminal", [False, True])
def test_disabled_it_shows_nothing(trainer, model, data, capsys, monkeypatch, terminal):
    if terminal:
        monkeypatch.setattr(sys, "stdout", Terminal())
    progress = Progress(every_s=0.0)
    progress.disable()
    trainer(3, progress, enable_progress_bar=True).fit(model(), data())
    assert lines(capsys) == [] and (not terminal or sys.stdout.getvalue() == "")
    progress.enable()
    trainer(3, progress, enable_progress_bar=True).fit(model(), data())
    assert sys.stdout.getvalue() if terminal else lines(capsys)


def test_on_a_terminal_it_is_one_bar_over_the_steps(trainer, model, data, monkeypatch):
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    trainer(3, Progress(every_s=0.0), enable_progress_bar=True, val_every=2).fit(model(), data())
    shown = sys.stdout.getvalue()
    assert "3/3" in shown and "training" in shown and "step 1 of" not in shown
