"""One runner at a time; what a killed one has left is found by number and start time, and nobody else is touched."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dmcore.lab import leftovers
from dmcore.lab.errors import LabRuns
from dmcore.lab.leftovers import forget, only_runner, record, recorded, started_at, stop_leftovers

WAITING = "import signal; print('up', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"


@contextmanager
def process(program: str = WAITING) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline() == "up\n"
            yield running
        finally:
            running.kill()


def test_one_runner_at_a_time(tmp_path: Path) -> None:
    run_dir = tmp_path / "lab" / "run"
    with only_runner(run_dir), pytest.raises(LabRuns, match="the lab is up already"), only_runner(run_dir):
        pass
    with only_runner(run_dir):
        pass


def test_a_process_is_known_while_it_runs(tmp_path: Path) -> None:
    with process() as running:
        record(tmp_path, "control", running.pid)
        assert recorded(tmp_path, "control") == running.pid
    assert recorded(tmp_path, "control") is None
    forget(tmp_path, "control")
    forget(tmp_path, "control")
    assert recorded(tmp_path, "control") is None


def test_what_was_left_is_stopped(tmp_path: Path) -> None:
    with process() as control, process() as appliance:
        record(tmp_path, "control", control.pid)
        record(tmp_path, "appliance", appliance.pid)
        assert sorted(stop_leftovers(tmp_path)) == ["appliance", "control"]
        assert [control.wait(), appliance.wait()] == [-signal.SIGTERM, -signal.SIGTERM]
    assert list(tmp_path.iterdir()) == []
    assert stop_leftovers(tmp_path) == []


def test_one_that_does_not_stop_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leftovers, "TERM_TIMEOUT_S", 0.1)
    with process(DEAF) as deaf:
        record(tmp_path, "connector", deaf.pid)
        assert stop_leftovers(tmp_path) == ["connector"]
        assert deaf.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    "content",
    ["", "nonsense", "[]", '{"pid": 1}', '{"pid": "x", "started": 1}', "null"],
    ids=["empty", "no-json", "a-list", "half", "no-number", "null"],
)
def test_a_note_that_is_none_stops_nobody(tmp_path: Path, content: str) -> None:
    (tmp_path / "control.json").write_text(content)
    assert stop_leftovers(tmp_path) == []


def test_another_process_that_got_the_same_number_is_left_alone(tmp_path: Path) -> None:
    with process() as other:
        (tmp_path / "control.json").write_text(json.dumps({"pid": other.pid, "started": started_at(other.pid) - 1}))
        assert stop_leftovers(tmp_path) == []
        assert other.poll() is None


def test_one_that_ends_while_it_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with process() as running:
        record(tmp_path, "control", running.pid)

        def gone(pid: int) -> int:
            raise ProcessLookupError(pid)

        monkeypatch.setattr(os, "pidfd_open", gone)
        assert stop_leftovers(tmp_path) == []


def test_one_whose_number_was_given_away_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with process() as running:
        record(tmp_path, "control", running.pid)
        answers = iter([started_at(running.pid), -1])
        monkeypatch.setattr(leftovers, "started_at", lambda _: next(answers))
        assert stop_leftovers(tmp_path) == []
        assert running.poll() is None


def test_no_such_process() -> None:
    assert started_at(1 << 30) == -1
