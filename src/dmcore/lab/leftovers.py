"""Who runs a lab: one process at a time, and what an earlier one that was killed has left running."""

import json
import os
import select
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dmcore.host.errors import NodeRunning
from dmcore.host.files import replace_file
from dmcore.host.lock import StateLock
from dmcore.lab.errors import LabRuns

TERM_TIMEOUT_S = 20.0
START_TIME_FIELD = 19
"""Of /proc/PID/stat, counted behind the command's name, which may have spaces in it."""


@contextmanager
def only_runner(run_dir: Path) -> Iterator[None]:
    """Be the one process that runs a lab.

    Raises:
        LabRuns: another one does.
    """
    try:
        lock = StateLock(run_dir)
    except NodeRunning as held:
        raise LabRuns(path=str(run_dir.parent)) from held
    with lock:
        yield


def record(run_dir: Path, name: str, pid: int) -> None:
    """Note a process of the lab, so that it can be found after its parent was killed."""
    replace_file(run_dir / f"{name}.json", json.dumps({"pid": pid, "started": started_at(pid)}).encode())


def forget(run_dir: Path, name: str) -> None:
    """It has ended."""
    (run_dir / f"{name}.json").unlink(missing_ok=True)


def stop_leftovers(run_dir: Path) -> list[str]:
    """Stop what still runs of an earlier start, the youngest role first. Returns the names."""
    found = sorted(run_dir.glob("*.json"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    stopped = [path.stem for path in found if _stop(path)]
    for path in found:
        path.unlink()
    return stopped


def recorded(run_dir: Path, name: str) -> int | None:
    """The running process of this name; None: there is none."""
    try:
        noted = json.loads((run_dir / f"{name}.json").read_text())
        pid, started = int(noted["pid"]), int(noted["started"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return pid if started_at(pid) == started else None


def started_at(pid: int) -> int:
    """When a process started, in the kernel's ticks: with its number it is one process only. -1: there is none."""
    try:
        line = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return -1
    return int(line.rpartition(")")[2].split()[START_TIME_FIELD])


def _stop(path: Path) -> bool:
    pid = recorded(path.parent, path.stem)
    if pid is None:
        return False
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if recorded(path.parent, path.stem) != pid:  # it ended meanwhile, and the number is another's
            return False
        return _end(handle)
    finally:
        os.close(handle)


def _end(handle: int) -> bool:
    for number in (signal.SIGTERM, signal.SIGKILL):
        signal.pidfd_send_signal(handle, number)
        if select.select([handle], [], [], TERM_TIMEOUT_S)[0]:
            break
    return True
