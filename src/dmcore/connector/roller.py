"""Rolls cycles forward in the background, and knows how far each is: those that are sealed, those that are given up.

And those that are direct, as far as they were received. It never retries by itself: whoever asks how far a cycle is
(`commit`, a start of the node), or brings more of it, starts a stopped one again.
"""

import threading
import time
from collections.abc import Callable
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
    """Somebody asked since the last step began: there may be more to do than what was seen then."""
    reached: Phase | None = None
    done_bytes: int = 0
    error: Exception | None = None
    """What stopped the last run, until the next one."""


class Roller:
    """A few threads; one at a time for a group, and a step at a time: no group holds up the others."""

    def __init__(
        self,
        publisher: Publisher,
        threads: int = 2,
        metrics: ConnectorMetrics | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._publisher, self._metrics, self._monotonic = publisher, metrics or ConnectorMetrics(), monotonic
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="roller")
        self._changed = threading.Condition()
        self._rolling: dict[GroupId, Rolling] = {}
        self._stopping = False

    def start(self, shadow: GroupShadow) -> None:
        """Roll a group's cycle forward; if that is under way, look again when it is done."""
        with self._changed:
            if self._stopping:
                return
            rolling = self._rolling.setdefault(shadow.group, Rolling())
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
        with self._changed:
            rolling = self._rolling.get(shadow.group, Rolling())
            self._changed.wait_for(
                lambda: self._stopping or not rolling.running or rolling.reached in ANSWERED, timeout_s
            )
            error = rolling.error
        phase = _phase(shadow)
        if error is not None and phase not in ANSWERED:
            raise error
        return phase

    def settle(self, shadow: GroupShadow, timeout_s: float) -> None:
        """Wait until nothing of the group is under way, or the time is over."""
        with self._changed:
            rolling = self._rolling.get(shadow.group, Rolling())
            self._changed.wait_for(lambda: self._stopping or not rolling.running, timeout_s)

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
        """One step; then the same again, behind the groups that wait, if there may be more to do."""
        self._change(rolling, wanted=False)
        more, error = self._try_step(shadow, rolling)
        with self._changed:
            rolling.running = (more or rolling.wanted) and not self._stopping
            rolling.error = None if rolling.running else error
            if rolling.running:
                self._pool.submit(self._roll, shadow, rolling)
            self._changed.notify_all()

    def _try_step(self, shadow: GroupShadow, rolling: Rolling) -> tuple[bool, Exception | None]:
        """Whether there may be more to do, and what went wrong."""
        ids = {"group": str(shadow.group), "plan": str(shadow.state.plan)}
        if self._stopping:
            return False, None
        try:
            return self._step(shadow, rolling, ids), None
        except DmcoreError as error:
            log.error("cycle stopped", code=error.code, problem=str(error), **ids)
            return False, error
        except OSError as error:
            log.error("cycle stopped", problem=str(error), **ids)
            return False, _as_target_error(error)
        except Exception as error:
            log.exception("cycle stopped", **ids)
            return False, error

    def _step(self, shadow: GroupShadow, rolling: Rolling, ids: dict[str, str]) -> bool:
        def progress(count: int) -> None:
            with self._changed:
                rolling.done_bytes += count
            self._metrics.applied_bytes.inc(count)

        began_s = self._monotonic()
        if shadow.drain(self._metrics.applied_bytes.inc):
            return True
        phase = shadow.advance(self._publisher, progress)
        if phase is None:
            return False
        took_s = self._monotonic() - began_s
        log.info("cycle advanced", phase=phase, seconds=round(took_s, 3), **ids)
        self._metrics.reached(phase, took_s)
        self._change(rolling, reached=phase)
        return True

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
