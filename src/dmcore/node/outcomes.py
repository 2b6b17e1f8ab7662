"""Outcomes that the control plane has not taken yet: a file each in `state_dir/control/outcomes/`."""

import threading
from pathlib import Path
from uuid import UUID

import structlog

from dmcore.api.base import Message
from dmcore.api.jobs import Outcome
from dmcore.host.errors import FileBroken
from dmcore.host.files import make_dir, read_state, replace_file
from dmcore.node.control_client import without_disks
from dmcore.node.enrolment import control_dir

log = structlog.get_logger()


class Waiting(Message):
    """One of them."""

    job: UUID
    outcome: Outcome


class OutcomeBox:
    """All of this node's. Any thread may use it."""

    def __init__(self, state_dir: Path) -> None:
        """Reads what an earlier process left. A file that cannot be read is told of, and left where it is."""
        self._folder = control_dir(state_dir) / "outcomes"
        self._lock, self._writing = threading.Lock(), threading.Lock()
        """What is in memory; and the turn to change it and its file, so that both come and go together."""
        found = [waiting for path in sorted(self._folder.glob("*.json")) if (waiting := _read(path))]
        self._waiting = {self._path(each): each for each in sorted(found, key=lambda each: each.outcome.epoch)}

    def put(self, job: UUID, outcome: Outcome) -> None:
        """Keep one: durably, before anybody tells of it. If that fails it is kept in memory, and the log says so."""
        waiting = Waiting(job=job, outcome=outcome)
        path = self._path(waiting)
        with self._writing:
            self._write(path, waiting)
            with self._lock:
                self._waiting[path] = waiting

    def all(self) -> list[Waiting]:
        """Those that wait, oldest first."""
        with self._lock:
            return list(self._waiting.values())

    def holds(self, waiting: Waiting) -> bool:
        """Whether it is this very one that waits: not delivered, and none was put in its place."""
        with self._lock:
            return self._waiting.get(self._path(waiting)) is waiting

    def remove(self, waiting: Waiting) -> None:
        """It was delivered, or never will be. One that was put in its place meanwhile stays."""
        path = self._path(waiting)
        with self._writing:
            if not self.holds(waiting):
                return
            with self._lock:
                del self._waiting[path]
            try:
                path.unlink(missing_ok=True)
            except OSError as problem:  # the next process says it again, which changes nothing
                log.error("outcome's file stays", path=str(path), problem=problem.strerror)

    def _write(self, path: Path, waiting: Waiting) -> None:
        try:
            make_dir(self._folder)
            replace_file(path, _durable(waiting).model_dump_json().encode())
        except OSError as problem:
            log.error("outcome is not durable", job=str(waiting.job), path=str(path), problem=problem.strerror)

    def _path(self, waiting: Waiting) -> Path:
        return self._folder / f"{waiting.job}.{waiting.outcome.epoch}.json"


def _durable(waiting: Waiting) -> Waiting:
    """As it is written: without what would make it longer than a state file may be. The totals stay."""
    return waiting.model_copy(update={"outcome": without_disks(waiting.outcome)})


def _read(path: Path) -> Waiting | None:
    try:
        return Waiting.model_validate_json(read_state(path))
    except (FileBroken, ValueError) as problem:
        log.error("outcome cannot be read", path=str(path), problem=type(problem).__name__)
        return None
