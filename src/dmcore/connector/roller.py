"""Rolls sealed cycles forward in the background, and knows how far each is.

It never retries by itself: whoever asks how far a cycle is (`commit`, a start of the node) starts a stopped one again.
"""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import structlog

from dmcore.connector.metrics import ConnectorMetrics
from dmcore.errors import DmcoreError
from dmcore.model.ids import GroupId
from dmcore.model.phase import ANSWERED, Phase
from dmcore.shadow.forward import Publisher
from dmcore.shadow.group import GroupShadow
from dmcore.targets.errors import TargetIOFailed

log = structlog.get_logger()


@dataclass
class Rolling:
    """One group's way forward. Every field is guarded by the roller's lock."""

    running: bool = False
    wanted: bool = False
    """Somebody asked since the last look at the group: there may be more to do than what was seen then."""
    reached: Phase | None = None
    done_bytes: int = 0
    error: Exception | None = None
    """What stopped the last run, until the next one."""


class Roller:
    """A few threads; one at a time for a group."""

    def __init__(self, publisher: Publisher, threads: int = 2, metrics: ConnectorMetrics | None = None) -> None:
        self._publisher, self._metrics = publisher, metrics or ConnectorMetrics()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="roller")
        self._changed = threading.Condition()
        self._rolling: dict[GroupId, Rolling] = {}
        self._stopping = False

    def start(self, shadow: GroupShadow) -> None:
        """Roll a group's cycle forward; if that is under way, look again when it is done."""
        group = shadow.state.group
        with self._changed:
            if self._stopping:
                return
            rolling = self._rolling.setdefault(group, Rolling())
            rolling.wanted = True
            if not rolling.running:
                rolling.running, rolling.reached, rolling.error, rolling.done_bytes = True, None, None, 0
                self._pool.submit(self._roll, shadow, rolling)

    def wait(self, shadow: GroupShadow, timeout_s: float) -> Phase | None:
        """The phase of the group's cycle: at once if it is an answer, else when it is or the time is over.

        Raises:
            DmcoreError: the last run could not go on, and the cycle is not answered; the next `start` tries again.
        """
        if (phase := _phase(shadow)) in ANSWERED:
            return phase
        group = shadow.state.group
        with self._changed:
            rolling = self._rolling.get(group, Rolling())
            self._changed.wait_for(
                lambda: self._stopping or not rolling.running or rolling.reached in ANSWERED, timeout_s
            )
            error = rolling.error
        phase = _phase(shadow)
        if error is not None and phase not in ANSWERED:
            raise error
        return phase

    def done_bytes(self, group: GroupId) -> int:
        """How much of its cycle's logs the last run has applied."""
        with self._changed:
            return self._rolling.get(group, Rolling()).done_bytes

    def stop(self) -> None:
        """Finish the step under way, take no further one, join the threads. Idempotent."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _roll(self, shadow: GroupShadow, rolling: Rolling) -> None:
        error = None
        while error is None and self._is_wanted(rolling):
            error = self._run(shadow, rolling)
        if error is not None:
            self._change(rolling, error=error, running=False)

    def _is_wanted(self, rolling: Rolling) -> bool:
        """Whether to look at the group (again). If not, the run has ended."""
        with self._changed:
            wanted, rolling.wanted = rolling.wanted and not self._stopping, False
            rolling.running = wanted
            self._changed.notify_all()
            return wanted

    def _run(self, shadow: GroupShadow, rolling: Rolling) -> Exception | None:
        def progress(count: int) -> None:
            with self._changed:
                rolling.done_bytes += count
            self._metrics.applied_bytes.inc(count)

        ids = {"group": str(shadow.state.group), "plan": str(shadow.state.plan)}
        try:
            began_s = time.monotonic()
            while not self._stopping and (phase := shadow.advance(self._publisher, progress)) is not None:
                took_s = time.monotonic() - began_s
                log.info("cycle advanced", phase=phase, seconds=round(took_s, 3), **ids)
                self._metrics.reached(phase, took_s)
                self._change(rolling, reached=phase)
                began_s = time.monotonic()
        except DmcoreError as error:
            log.error("cycle stopped", code=error.code, problem=str(error), **ids)
            return error
        except OSError as error:
            log.error("cycle stopped", problem=str(error), **ids)
            return _as_target_error(error)
        except Exception as error:
            log.exception("cycle stopped", **ids)
            return error
        return None

    def _change(self, rolling: Rolling, **values: object) -> None:
        with self._changed:
            vars(rolling).update(values)
            self._changed.notify_all()


def _phase(shadow: GroupShadow) -> Phase | None:
    cycle = shadow.state.cycle
    return cycle.phase if cycle else None


def _as_target_error(error: OSError) -> TargetIOFailed:
    where = str(error.filename or "state directory")
    return TargetIOFailed(path=where, operation="apply", offset=0, problem=error.strerror or str(error))
