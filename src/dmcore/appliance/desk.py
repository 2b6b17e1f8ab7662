"""What this node says, takes and decides towards its control plane, and what it does while there is none."""

import threading
import time
from collections.abc import Callable

import structlog

from dmcore.api.client_errors import ControlDenied
from dmcore.api.jobs import ConnectorJob, Job, JobResult, Outcome
from dmcore.api.nodes import MAX_OFFLINE, AssignedGroup, AssignedPlans, OfflineCycle
from dmcore.appliance import offline, reporting
from dmcore.appliance.agent import Appliance
from dmcore.appliance.crew import Crew
from dmcore.appliance.duty import Alone, Duty, End
from dmcore.appliance.offline import GroupRecord, Moments
from dmcore.appliance.offline_state import OfflineState
from dmcore.errors import DmcoreError
from dmcore.host.clock import Clock
from dmcore.node.control_client import NodeClient
from dmcore.node.lease import LeaseKeeper, bounded
from dmcore.node.offer import Offer

HEARTBEAT_S = 15.0
"""Until a control plane has said otherwise."""
UNKNOWN = "node.unknown"
"""The control plane's word for a node that is not, or no more, enrolled there. Other refusals are outages."""
GRACE_HEARTBEATS = 2
"""For so many heartbeats a control plane may be gone, and a cycle late, before this node acts by itself."""

log = structlog.get_logger()


class JobDesk:
    """The worker's desk. `look` and `finished` are called from other threads."""

    def __init__(
        self,
        node: Appliance,
        keeper: LeaseKeeper,
        state: OfflineState,
        clock: Clock,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes jobs at once. `on_end` is told when this process must stop."""
        self._node, self._keeper, self._state, self._clock, self._monotonic = node, keeper, state, clock, monotonic
        self._turn = threading.Lock()
        """Whoever begins an attempt has it: so a group is never begun twice at once."""
        self._heartbeat_s = HEARTBEAT_S
        self._away_since: float | None = None
        now, tick = clock(), monotonic()
        self._started = {each.job.group: tick - offline.since_start_s(each, now) for each in state.records()}
        self.crew = Crew(node.settings.limits.parallel_cycles, self.finished)
        self.on_end: Callable[[Exception], None] = lambda _: None
        if state.plans is not None:
            self._set_limits(state.plans)

    # The worker's

    def offer(self) -> Offer:
        """What this appliance has, and how many more cycles it would run."""
        return Offer(slots=self.crew.slots, sources=tuple(self._node.settings.sources), busy=self.crew.busy())

    def start(self, job: Job | ConnectorJob, heartbeat_s: float) -> None:
        """Take a job; twice the same is one. What else the group has running here gives way to it."""
        if not isinstance(job, Job) or job.successor:  # successors are this node's own business
            log.error("a job that is not an appliance's", job=str(job.job))
            return
        with self._turn:
            self._heartbeat_s = bounded(heartbeat_s)
            earlier = self.crew.of_group(job.group)
            if any((each.job.job, each.job.epoch) == (job.job, job.epoch) for each in earlier):
                return
            before = self._state.record(job.group)
            if offline.overtakes(before, job):
                self._keeper.finish(job.job, reporting.overtaken(job))
                return
            for each in earlier:
                self._keeper.abandon(each.job.job)
            self._keep(offline.leased(job, self._clock(), before))
            duty = Duty(job, self._node.run, self._node.pacing)
            self._keeper.hold(job.job, job.epoch, duty, heartbeat_s)
            self._take(duty)

    def before_poll(self, client: NodeClient) -> None:
        """Report what was run without the control plane. A cycle that is just being tried again is not over."""
        busy = self.crew.busy()
        reports = [each for each in self._state.reports() if each.group not in busy]
        for first in range(0, len(reports), MAX_OFFLINE):
            told = reports[first : first + MAX_OFFLINE]
            client.offline(told)
            log.info("cycles run without the control plane are reported", count=len(told))
            for report in told:
                self._close(report)
            self._state.forget_reports(told)

    def plans(self, assigned: AssignedPlans) -> None:
        """These groups it may run by itself, and these limits hold."""
        self._state.keep_plans(assigned)
        self._set_limits(assigned)

    def reached(self) -> None:
        """The control plane decides again."""
        self._away_since = None
        self._state.keep_denied(False)

    def unreachable(self, error: DmcoreError) -> None:
        """It does not answer: this node goes on by itself. Not once it was told that it is not known there any more."""
        if isinstance(error, ControlDenied) and error.reason == UNKNOWN:
            self._state.keep_denied(True)
        if self._away_since is None:
            self._away_since = self._monotonic()

    def ended(self, error: Exception) -> None:
        """This process must stop."""
        self.on_end(error)

    # Without a control plane

    @property
    def is_alone(self) -> bool:
        """Whether the control plane has been away for long enough that this node decides, and it may."""
        since = self._away_since
        return since is not None and not self._state.denied and self._monotonic() - since >= self._grace_s

    def look(self) -> None:
        """Begin the cycles that are due, as far as there are slots: those first that are due for longest."""
        plans = self._state.plans
        if plans is None or not self.is_alone:
            return
        known = [(record, group) for group in plans.groups if (record := self._state.record(group.group))]
        for _, group in sorted(known, key=lambda pair: offline.next_start(pair[0], pair[1].rpo_s)):
            with self._turn:
                record = self._state.record(group.group)  # an attempt may have ended since
                if record and self.is_alone and self.crew.slots and not self.crew.of_group(group.group):
                    self._begin_if_due(record, group)

    def finished(self, duty: Duty, outcome: Outcome) -> None:
        """An attempt is over: remember it, then say so. Called in its thread."""
        self._node.metrics.ended(duty.live, outcome.result)
        self._keep_to_tell(duty, outcome)
        with self._turn:  # a lease that is taken meanwhile must not be forgotten for what is known of the one before
            record = self._state.record(duty.job.group)
            if record is not None and (record.job.epoch, record.cycle) == (duty.job.epoch, duty.job.cycle):
                now = self._clock()
                after = offline.ended(record, now, outcome, duty.seconds, begun=duty.live.begun)
                self._state.keep_record(after)

    def _begin_if_due(self, record: GroupRecord, group: AssignedGroup) -> None:
        now = self._clock()
        at = Moments(now, self._monotonic() - self._started.get(group.group, 0.0))
        if not offline.is_due(record, group, at, self._grace_s):
            return
        begun = offline.following(record, group, now)
        job = offline.job_of(begun)
        log.info("cycle begun without a control plane", group=str(group.group), successor=job.successor)
        self._keep(begun)
        alone = Alone(record.job.cycle, begun.started_at)
        self._take(Duty(job, self._node.run, self._node.pacing, alone))

    def _take(self, duty: Duty) -> None:
        self._node.metrics.began(duty.live)
        if not self.crew.take(duty):
            self._node.metrics.ended(duty.live, JobResult.CANCELLED)
            self._keeper.abandon(duty.job.job)

    def _keep(self, record: GroupRecord) -> None:
        self._started[record.job.group] = self._monotonic()
        self._state.keep_record(record)

    def _keep_to_tell(self, duty: Duty, outcome: Outcome) -> None:
        """The lease's own cycle has an outcome, however often it was tried; later ones are reported."""
        if not duty.job.successor:
            if duty.ended_by is not End.LOST:
                self._keeper.finish(duty.job.job, outcome)
        elif duty.alone is not None and duty.ended_by is not End.STOPPED:  # after a restart it goes on
            self._state.keep_report(
                OfflineCycle(
                    plan=duty.job.plan, group=duty.job.group, base_cycle=duty.alone.base_cycle,
                    successor=duty.job.successor, started_at=duty.alone.started_at,
                    ended_at=max(duty.alone.started_at, self._clock()), outcome=outcome,
                )
            )  # fmt: skip

    def _close(self, report: OfflineCycle) -> None:
        """What was reported is over: its number is not used again."""
        with self._turn:
            record = self._state.record(report.group)
            if record is None or (record.job.cycle, record.successor) != (report.base_cycle, report.successor):
                return
            if not self.crew.of_group(report.group):
                self._state.keep_record(offline.given_up(record, snapshot_left=record.snapshot_left))

    def _set_limits(self, assigned: AssignedPlans) -> None:
        self._node.pacing.set_site_limit(assigned.site_limit)
        self._node.pacing.set_plan_limits({group.plan: group.limit for group in assigned.groups})

    @property
    def _grace_s(self) -> float:
        return GRACE_HEARTBEATS * self._heartbeat_s
