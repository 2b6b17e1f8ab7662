"""The scheduler: what time itself brings about. It runs in every replica; what one has in hand the others pass by."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

import structlog
from sqlalchemy import Connection

from dmcore.control.index import retention
from dmcore.control.queue import leases
from dmcore.control.queue.queue import QueueKey, waiting
from dmcore.control.schedule import due, housekeeping, sampling
from dmcore.control.schedule.passing import step
from dmcore.control.store.database import Database
from dmcore.errors import DmcoreError

log = structlog.get_logger()

Waiting = Callable[[float], bool]
"""Waits so many seconds; True: at once, the scheduler is to end."""


@dataclass(frozen=True)
class TickResult:
    """What one tick did, and which queues have something to claim now."""

    reaped: int
    enqueued: int
    breached: int
    expiring: int
    sampled: int
    pruned: int
    waiting: frozenset[QueueKey]


def tick(connection: Connection, now: datetime) -> TickResult:
    """Everything that is due now, in the caller's one transaction. However many replicas do it, it is done once."""
    return TickResult(
        reaped=step(connection, now, leases.reap),
        enqueued=step(connection, now, due.enqueue_due),
        breached=step(connection, now, due.find_breaches),
        expiring=step(connection, now, retention.ask_expiry),
        sampled=step(connection, now, sampling.enqueue_samples),
        pruned=step(connection, now, housekeeping.prune),
        waiting=frozenset(waiting(connection, now)),
    )


class Scheduler:
    """A thread of its owner's that ticks every so often, by the database's clock, until it is stopped."""

    def __init__(
        self, database: Database, tick_s: float, on_tick: Callable[[TickResult], None], wait: Waiting | None = None
    ) -> None:
        """`on_tick` is called after each tick that was committed, in the scheduler's thread."""
        self._database = database
        self._tick_s = tick_s
        self._on_tick = on_tick
        self._stopping = threading.Event()
        self._wait = wait or self._stopping.wait
        self._failing: str | None = None
        self._thread = threading.Thread(target=self._run, name="scheduler")

    def start(self) -> None:
        """Tick from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Ends and joins it, after the tick that it is in. Idempotent."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._tick()
            except DmcoreError as problem:
                self._say(problem.code)
            except Exception:
                log.exception("the scheduler's tick failed")
            if self._wait(self._tick_s):
                return

    def _tick(self) -> None:
        with self._database.write() as connection:
            result = tick(connection, self._database.now(connection))
        self._say(None)
        self._on_tick(result)

    def _say(self, code: str | None) -> None:
        """A database that is away is told of once, and once that it is back."""
        if code != self._failing:
            log.warning("the scheduler waits for the database" if code else "the scheduler goes on", code=code)
        self._failing = code
