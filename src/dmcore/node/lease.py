"""Held jobs: heartbeats while they run, and their outcomes until somebody has taken them."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self
from uuid import UUID

import structlog

from dmcore.api.client_errors import ControlBusy, ControlRefused
from dmcore.api.jobs import Outcome, Progress
from dmcore.api.nodes import HeartbeatReply
from dmcore.errors import DmcoreError
from dmcore.node.backoff import Backoff
from dmcore.node.control_client import NodeClient
from dmcore.node.control_errors import SUPERSEDED
from dmcore.node.outcomes import OutcomeBox, Waiting

LEASE_LOST = "lease.lost"
NO_SUCH_JOB = 404
REFUSED_FOR_GOOD = frozenset({404, 409, 422})
"""An outcome answered so is taken by nobody, ever."""
MIN_HEARTBEAT_S, MAX_HEARTBEAT_S = 0.25, 600.0
TURN_S = 0.1
"""How soon who waits for another thread's delivery notices that it should stop."""
STOP_S = 5.0
"""How long a stop waits for outcomes to be taken; they are durable here."""

log = structlog.get_logger()


class Holder(Protocol):
    """Who runs one job. Calls come from the keeper's thread, must not block and must not fail."""

    def progress(self) -> Progress:
        """How far it is."""
        ...

    def directed(self, reply: HeartbeatReply) -> None:
        """The control plane's directives: cancel, pause, limits. Called after every heartbeat that was answered."""
        ...

    def lost(self) -> None:
        """The lease is another's: stop the streams, keep the source snapshot. Called at most once."""
        ...


@dataclass
class _Held:
    job: UUID
    epoch: int
    holder: Holder
    every_s: float
    due: float = 0.0
    """By the monotonic clock; at once at first."""


class LeaseKeeper:
    """All jobs that this process holds. One thread; any thread may call."""

    def __init__(
        self, client: NodeClient, state_dir: Path, *, backoff: Backoff | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        """Reads what an earlier process could not deliver."""
        self._client, self._clock = client.branch(), clock
        self._box, self._backoff = OutcomeBox(state_dir), backoff or Backoff()
        self._held: dict[UUID, _Held] = {}
        self._lock, self._delivering = threading.Lock(), threading.Lock()
        self._woken, self._stopping = threading.Event(), threading.Event()
        self._deliver_due = 0.0
        self._fault: Exception | None = None
        self._thread = threading.Thread(target=self._run, name="lease-keeper")

    def hold(self, job: UUID, epoch: int, holder: Holder, heartbeat_s: float) -> None:
        """Heartbeats for a job from now on, the first one at once."""
        with self._lock:
            self._held[job] = _Held(job, epoch, holder, bounded(heartbeat_s))
        self._woken.set()

    def finish(self, job: UUID, outcome: Outcome) -> None:
        """The attempt is over: no more heartbeats. The outcome is durable when this returns; it is delivered later."""
        self.abandon(job)
        self._box.put(job, outcome)
        self._deliver_due = 0.0
        self._woken.set()

    def abandon(self, job: UUID) -> None:
        """No more heartbeats, and no outcome: the process stops, and the lease runs out."""
        with self._lock:
            self._held.pop(job, None)

    def flush(
        self, client: NodeClient | None = None, stopped: Callable[[], bool] = lambda: False,
        between: Callable[[], None] = lambda: None,
    ) -> None:  # fmt: skip
        """Try to deliver every outcome now, until `stopped`. `between` is called after each.

        Raises:
            DmcoreError: one of NodeClient's, and some outcomes are left.
            Exception: the keeper's thread has ended by a fault.
        """
        if self._fault is not None:
            raise self._fault
        refused: ControlRefused | None = None
        for waiting in self._box.all():
            try:
                self._deliver(client or self._client, waiting, stopped)
            except ControlBusy:  # for all of them
                raise
            except ControlRefused as problem:  # of this one: the others may be taken
                refused = problem
            between()
        if refused is not None:
            raise refused

    @property
    def undelivered(self) -> int:
        """How many outcomes wait."""
        return len(self._box.all())

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Try once more to deliver; join the thread. Heartbeats end first. Idempotent."""
        self._stopping.set()
        self._woken.set()
        if self._thread.ident is not None:
            self._thread.join(STOP_S if self.undelivered else 0)
        self._client.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._woken.clear()
                self._heartbeats()
                self._outcomes()
                self._woken.wait(self._rest_s())
            with suppress(DmcoreError):
                self.flush()
        except Exception as fault:  # noqa: BLE001 - told by `flush`: jobs without heartbeats must not go unnoticed
            self._fault = fault

    def _heartbeats(self) -> None:
        for held in self._all_held():
            if held.due > self._clock() or self._stopping.is_set():
                continue
            try:
                self._heartbeat(held)
            except DmcoreError as problem:  # lost contact is not a lost lease
                log.debug("no heartbeat", job=str(held.job), code=problem.code)
            held.due = self._clock() + held.every_s

    def _heartbeat(self, held: _Held) -> None:
        try:
            reply = self._client.heartbeat(held.job, held.epoch, held.holder.progress())
        except ControlRefused as refused:
            if refused.reason not in {LEASE_LOST, SUPERSEDED} and refused.status != NO_SUCH_JOB:
                raise
            log.warning("lease lost", job=str(held.job), epoch=held.epoch, code=refused.reason)
            if self._let_go(held):
                held.holder.lost()
            return
        held.every_s = bounded(reply.heartbeat_s)
        if self._has(held):
            held.holder.directed(reply)

    def _outcomes(self) -> None:
        if self._deliver_due > self._clock() or not self._box.all():
            return
        try:
            self.flush(between=self._heartbeats)  # however many there are, and however slowly they are taken
        except DmcoreError as problem:
            log.debug("outcomes wait", count=self.undelivered, code=problem.code)
            self._deliver_due = self._clock() + self._backoff.next_s()
        else:
            self._backoff.reset()

    def _deliver(self, client: NodeClient, waiting: Waiting, stopped: Callable[[], bool]) -> None:
        """In turns, one outcome at a time: what another thread has just delivered is not said twice."""
        while not self._delivering.acquire(timeout=TURN_S):
            if stopped():
                return
        try:
            if self._box.holds(waiting):
                self._say(client, waiting)
        finally:
            self._delivering.release()

    def _say(self, client: NodeClient, waiting: Waiting) -> None:
        try:
            client.outcome(waiting.job, waiting.outcome)
        except ControlRefused as refused:
            if refused.status not in REFUSED_FOR_GOOD or refused.reason == SUPERSEDED:
                raise
            log.warning("outcome refused", job=str(waiting.job), code=refused.reason)
        self._box.remove(waiting)

    def _rest_s(self) -> float:
        dues = [held.due for held in self._all_held()]
        if self._box.all():
            dues.append(self._deliver_due)
        return max(min(dues, default=self._clock() + MAX_HEARTBEAT_S) - self._clock(), 0)

    def _all_held(self) -> list[_Held]:
        with self._lock:
            return list(self._held.values())

    def _has(self, held: _Held) -> bool:
        with self._lock:
            return self._held.get(held.job) is held

    def _let_go(self, held: _Held) -> bool:
        """Whether it was still held: its end may have come while the heartbeat was on its way."""
        with self._lock:
            return self._held.get(held.job) is held and bool(self._held.pop(held.job))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def bounded(heartbeat_s: float) -> float:
    """A control plane's interval, as far as it makes sense."""
    return min(max(heartbeat_s, MIN_HEARTBEAT_S), MAX_HEARTBEAT_S)
