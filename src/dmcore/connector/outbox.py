"""What the control plane has still to be told of points: durable here first, so that it holds no group up.

One file a point, `state_dir/outbox/<point>.json`, with the newest that is to be said of it. At each start everything
in the catalogues is stated anew: so nothing is lost if entries were not made (no enrolment), were too many, or broke.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Protocol

import structlog

from dmcore.api.points import MAX_POINTS, PointFact
from dmcore.errors import DmcoreError
from dmcore.model.ids import PointId
from dmcore.node.backoff import Backoff
from dmcore.shadow.storage import Storage

MAX_ENTRIES = 10_000
"""More are not kept: the catalogues have the points, and are stated as a whole instead."""

log = structlog.get_logger()

Facts = Callable[[], Iterable[PointFact]]


class Outbox:
    """One connector's. Thread-safe. What is put here is durable when `put` returns."""

    def __init__(self, folder: Path, storage: Storage) -> None:
        """Opens what an earlier process could not say."""
        self._folder, self._storage = folder, storage
        self._changed = threading.Condition()
        self._revisions: dict[PointId, int] = {}
        self._restate = True
        storage.make_dir(folder)
        for path in sorted(folder.glob("*.json")):
            if (fact := self._read(path)) is None:
                path.unlink(missing_ok=True)
            else:
                self._revisions[fact.id] = fact.revision

    def put(self, fact: PointFact) -> None:
        """Keep what is to be said of a point. What is older than what is kept is not. Raises OSError."""
        with self._changed:
            if fact.revision < self._revisions.get(fact.id, 0):
                return
            if fact.id not in self._revisions and len(self._revisions) >= MAX_ENTRIES:
                self._drop_all()
                return
            self._storage.replace(self._path(fact.id), fact.model_dump_json().encode())
            self._revisions[fact.id] = fact.revision
            self._changed.notify_all()

    def page(self) -> list[PointFact]:
        """Some of what is to be said, at most MAX_POINTS."""
        with self._changed:
            first = list(islice(self._revisions, MAX_POINTS))
            found = {point: self._read(self._path(point)) for point in first}
            for point in [point for point in first if found[point] is None]:
                self._forget(point)
            return [fact for fact in found.values() if fact is not None]

    def said(self, facts: Sequence[PointFact]) -> None:
        """The control plane has these: what was put since stays."""
        with self._changed:
            for fact in facts:
                if self._revisions.get(fact.id) == fact.revision:
                    self._forget(fact.id)

    def begin_restating(self) -> bool:
        """Whether all that is in the catalogues is to be stated; the caller does so, or calls `restate`."""
        with self._changed:
            wanted, self._restate = self._restate, False
            return wanted

    def restate(self) -> None:
        """All that is in the catalogues is to be stated (again)."""
        with self._changed:
            self._restate = True
            self._changed.notify_all()

    def wait(self, stopping: Callable[[], bool], timeout_s: float | None = None) -> None:
        """Until there is something to say, or nobody to say it any more."""
        with self._changed:
            self._changed.wait_for(lambda: stopping() or bool(self._revisions) or self._restate, timeout_s)

    def rest(self, stopping: Callable[[], bool], timeout_s: float) -> None:
        """Until this time is over, or nobody is there to say anything any more."""
        with self._changed:
            self._changed.wait_for(stopping, timeout_s)

    def wake(self) -> None:
        """Let whoever waits look again."""
        with self._changed:
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many points there is something to say of."""
        return len(self._revisions)

    # Under the lock

    def _drop_all(self) -> None:
        log.warning("the outbox is full; all points will be stated instead", entries=len(self._revisions))
        self._restate = True
        for point in list(self._revisions):
            self._forget(point)
        self._changed.notify_all()

    def _forget(self, point: PointId) -> None:
        """Not synced: an entry that comes back after a crash is said again, which changes nothing."""
        del self._revisions[point]
        with contextlib.suppress(OSError):  # the same
            self._path(point).unlink(missing_ok=True)

    def _read(self, path: Path) -> PointFact | None:
        try:
            fact = PointFact.model_validate_json(path.read_bytes())
        except (OSError, ValueError):
            fact = None
        if fact is None or path != self._path(fact.id):
            log.error("an entry of the outbox is damaged; all points will be stated instead", path=str(path))
            self._restate = True
            return None
        return fact

    def _path(self, point: PointId) -> Path:
        return self._folder / f"{point}.json"


class Stater(Protocol):
    """The part of NodeClient that is needed here."""

    def points(self, facts: Sequence[PointFact]) -> None:
        """State points. Raises DmcoreError."""
        ...


class OutboxSender:
    """One thread that states what is in the outbox until the control plane has it."""

    def __init__(self, outbox: Outbox, client: Stater, catalogue: Facts, backoff: Backoff | None = None) -> None:
        self._outbox, self._client, self._catalogue = outbox, client, catalogue
        self._backoff = backoff or Backoff(cap_s=60)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outbox")

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Join the thread. What was not said stays. To be quick, close the client before. Idempotent."""
        self._stopping.set()
        self._outbox.wake()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self._outbox.wait(self._stopping.is_set)
            try:
                self._say_all()
                self._backoff.reset()
            except DmcoreError as error:
                log.warning("points were not stated", code=error.code, problem=str(error), waiting=self._outbox.waiting)
                self._rest()
            except Exception:
                log.exception("points were not stated", waiting=self._outbox.waiting)
                self._rest()

    def _say_all(self) -> None:
        if self._outbox.begin_restating():
            self._restate()
        while not self._stopping.is_set() and (page := self._outbox.page()):
            self._client.points(page)
            self._outbox.said(page)

    def _restate(self) -> None:
        try:
            for page in pages(self._catalogue()):
                if self._stopping.is_set():
                    return
                self._client.points(page)
        except BaseException:
            self._outbox.restate()
            raise

    def _rest(self) -> None:
        self._outbox.rest(self._stopping.is_set, self._backoff.next_s())


def pages(facts: Iterable[PointFact]) -> Iterator[list[PointFact]]:
    """Facts in as many as one message takes."""
    left = iter(facts)
    while page := list(islice(left, MAX_POINTS)):
        yield page
