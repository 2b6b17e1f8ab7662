"""How fast this node sends: one bucket for each plan, one for its share of the site, and a switch for each job.

Limits have a weekly schedule. No thread watches the clock: who asks to send has the rate looked up, a few times a
minute, and who waits asks twice a second.
"""

import threading
import time
from collections.abc import Callable, Mapping
from uuid import UUID
from weakref import WeakValueDictionary

from dmcore.api.limits import NO_LIMIT, Limit
from dmcore.appliance.stop import Stop
from dmcore.host.clock import Clock, utc_now
from dmcore.model.ids import PlanId
from dmcore.wire.pacer import LONGEST_WAIT_S, Chain, Pace, Pacer

LOOKED_UP_S = 10.0
"""How long a rate holds before it is looked up in the schedule again."""


class ScheduledPace:
    """A bucket whose rate follows a limit's schedule."""

    def __init__(self, now: Clock = utc_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Without a limit, until one is set."""
        self._now, self._monotonic = now, monotonic
        self._pacer = Pacer(clock=monotonic)
        self._lock = threading.Lock()
        self._limit = NO_LIMIT
        self._looked_up_at = monotonic()

    @property
    def rate_bytes_s(self) -> float | None:
        """What holds now."""
        self._look_up()
        return self._pacer.rate_bytes_s

    @property
    def paused(self) -> bool:
        """Never: a limit is more than nothing."""
        return False

    def set_limit(self, limit: Limit) -> None:
        """From now on. The same one again changes nothing."""
        with self._lock:
            if limit != self._limit:
                self._limit = limit
                self._apply()

    def take(self, wanted: int) -> int:
        """See `Pace`."""
        self._look_up()
        return self._pacer.take(wanted)

    def give_back(self, count: int) -> None:
        """See `Pace`."""
        self._pacer.give_back(count)

    def wait_s(self, wanted: int) -> float:
        """See `Pace`."""
        return self._pacer.wait_s(wanted)

    def _look_up(self) -> None:
        with self._lock:
            if self._monotonic() - self._looked_up_at >= LOOKED_UP_S:
                self._apply()

    def _apply(self) -> None:
        self._looked_up_at = self._monotonic()
        rate = self._limit.rate_at(self._now())
        if rate != self._pacer.rate_bytes_s:
            self._pacer.set_rate(rate)


class Pacing:
    """The whole node's. Thread-safe; what it is told takes effect on the connections that are open."""

    def __init__(self, now: Clock = utc_now, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Nothing is limited or paused."""
        self._now, self._monotonic = now, monotonic
        self._lock = threading.Lock()
        self._site = ScheduledPace(now, monotonic)
        self._limits: dict[PlanId, Limit] = {}
        self._plans: WeakValueDictionary[PlanId, ScheduledPace] = WeakValueDictionary()
        """Those that jobs use now: however many plans a control plane tells of, nothing is made of them."""
        self._jobs: dict[UUID, Pacer] = {}

    def for_job(self, job: UUID, plan: PlanId) -> Pace:
        """What the job's connections use. `forget` the job when it is over."""
        return Chain([self._switch(job), self._plan(plan), self._site])

    def set_plan_limits(self, limits: Mapping[PlanId, Limit]) -> None:
        """Of all that this node sends for each plan. What was told of others is forgotten."""
        with self._lock:
            self._limits = dict(limits)
            running = list(self._plans.items())
        for plan, pace in running:
            if plan in limits:
                pace.set_limit(limits[plan])

    def set_plan_limit(self, plan: PlanId, limit: Limit) -> None:
        """The same for one; of a plan that was not among them as long as a job uses it."""
        self._plan(plan).set_limit(limit)
        with self._lock:
            if plan in self._limits:
                self._limits[plan] = limit

    def set_site_limit(self, limit: Limit) -> None:
        """Of all that this node sends: its share of what the site may."""
        self._site.set_limit(limit)

    def pause(self, job: UUID) -> None:
        """Let a job send nothing more; its cycle goes on when it is resumed. Also before `for_job`."""
        self._switch(job).set_rate(0)

    def resume(self, job: UUID) -> None:
        """Let a job send again."""
        with self._lock:
            switch = self._jobs.get(job)
        if switch is not None:
            switch.set_rate(None)

    def paused(self, job: UUID) -> bool:
        """Whether a job is."""
        with self._lock:
            return job in self._jobs and self._jobs[job].paused

    def forget(self, job: UUID) -> None:
        """A job is over."""
        with self._lock:
            self._jobs.pop(job, None)

    def _switch(self, job: UUID) -> Pacer:
        with self._lock:
            return self._jobs.setdefault(job, Pacer(clock=self._monotonic))

    def _plan(self, plan: PlanId) -> ScheduledPace:
        with self._lock:
            pace = self._plans.get(plan)
            if pace is None:
                pace = self._plans[plan] = ScheduledPace(self._now, self._monotonic)
                pace.set_limit(self._limits.get(plan, NO_LIMIT))
            return pace


def wait_while_paused(pace: Pace, stop: Stop) -> None:
    """Return when sending is not paused: a connection made before would only hold what others can use.

    Raises:
        Cancelled: the end was asked for meanwhile.
    """
    asked = threading.Event()
    with stop.watching(lambda _: asked.set()):
        while pace.paused and not asked.wait(LONGEST_WAIT_S):
            pass
    stop.check()
