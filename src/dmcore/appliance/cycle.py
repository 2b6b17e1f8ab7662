"""One job's cycle at the appliance: snapshot, what changed, pump, commit, clean up.

The source snapshot is made once. Around everything that goes over the network there is one retry layer: after a broken
connection the same cycle is begun again, and goes on with the blocks that the connector says are not durable.
"""

from collections.abc import Callable
from contextlib import closing
from itertools import chain
from typing import TypeVar

import stamina
import structlog

from dmcore.api.jobs import Job
from dmcore.appliance.errors import ConnectorBusy, CycleFailed, EpochBehind
from dmcore.appliance.planning import DiskWork, begin_request, machines_of, plan_disks
from dmcore.appliance.progress import CycleProgress, CycleReport
from dmcore.appliance.snapshots import CycleSnapshots
from dmcore.appliance.stop import Stop
from dmcore.appliance.transfer import Tools, Transfer
from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.errors import ConnectionFailed
from dmcore.model.enums import SnapshotKind, Stage
from dmcore.model.ids import DiskId, PointId
from dmcore.model.phase import ANSWERED, Phase
from dmcore.node.backoff import Backoff
from dmcore.sources.base import Source, SourceSnapshot
from dmcore.wire.calls import ControlChannel
from dmcore.wire.errors import PeerRefused
from dmcore.wire.messages import (
    BeginAnswer,
    BeginReply,
    BeginRequest,
    CommitReply,
    CommitRequest,
    DiskCoverage,
    StateReply,
    StateRequest,
)

ATTEMPTS = 8
"""In a row, none of which got anything acknowledged: some twenty seconds, in which a connector has restarted."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 10.0
RETRYING = stamina.RetryingCaller(attempts=ATTEMPTS, timeout=None, wait_max=0)
"""However long each attempt takes: a transfer that has run for hours gets as many as one that has just begun.

Its own pauses cannot be cut short, so that there are none: `Cycle` makes them."""
FENCED_OFF = frozenset({"cycle.stale-epoch", "ticket.epoch"})
"""A connector's codes for: a newer attempt is known, which may be using this cycle's snapshot."""
DROPPED = "cycle.dropped"

Done = TypeVar("Done")

log = structlog.get_logger()


class Cycle:
    """One job's run. Used once, from one thread; `cancel` from any, at any time."""

    def __init__(self, job: Job, source: Source, tools: Tools, progress: CycleProgress) -> None:
        self._job, self._source, self._tools, self.progress = job, source, tools, progress
        self._stop = Stop()
        self._snapshots = CycleSnapshots(source, job)
        self._transfer = Transfer(job, tools, self._stop, progress)
        self._began_before = False
        """Whether the connector had begun this cycle when it was asked for its state."""
        self._snapshot_is_the_cycles = False
        """Whether the connector has said that it is this very snapshot that the cycle holds, or held."""
        self._snapshot_is_useless = False
        self._log = log.bind(plan=str(job.plan), group=str(job.group), cycle=str(job.cycle), epoch=job.epoch)

    def run(self) -> CycleReport:
        """The whole cycle, to its recovery point.

        Raises:
            DmcoreError: there is no point. The source snapshot stays if another attempt can go on with it.
        """
        machines = [machine.identity for machine in machines_of(self._source, self._job)]
        with self.progress.during(Stage.CONNECTING):
            state = self._retrying(may_pass, self._ask_state)
        with self.progress.during(Stage.SNAPSHOT):
            snapshot = self._snapshots.open(machines)
        try:
            with closing(snapshot):
                states = chain([state], iter(self._ask_state, None))
                work, point = self._retrying(is_busy, lambda: self._carry(snapshot, next(states)))
        except BaseException as error:
            self._give_up(error)
            raise
        with self.progress.during(Stage.CLEANUP):
            self._clean_up(work)
        self.progress.stage = Stage.DONE
        return self._report(snapshot, point)

    def cancel(self, why: str) -> None:
        """Stop what is under way and what would follow; `run` raises Cancelled, unless its point is made already."""
        self._stop.request(why)

    def _ask_state(self) -> StateReply:
        """What the connector holds, before a snapshot is made.

        Raises:
            EpochBehind, ConnectorBusy: a snapshot would be in vain.
        """
        with self._stop.connected(self._tools.link.control) as control:
            state = control.state(StateRequest(group=self._job.group, plan=self._job.plan))
        if state.epoch > self._job.epoch:
            raise EpochBehind(group=str(self._job.group), epoch=self._job.epoch, current=state.epoch)
        if state.busy and not self._holds_this(state):
            raise ConnectorBusy(group=str(self._job.group))
        return state

    def _holds_this(self, state: StateReply) -> bool:
        return state.cycle is not None and state.cycle.cycle == self._job.cycle

    def _carry(self, snapshot: SourceSnapshot, state: StateReply) -> tuple[list[DiskWork], PointId]:
        """Plan by what the connector holds, and run that. Anew when it was busy: what it holds is another then.

        It is when this cycle takes another's place that was written to shadows already (docs/staging-log.md).
        """
        self._look_at(state, snapshot)
        work = plan_disks(self._job, snapshot, state, self._tools.block_bytes)
        return work, self._run_attempts(snapshot, work)

    def _look_at(self, state: StateReply, snapshot: SourceSnapshot) -> None:
        self._began_before = self._holds_this(state)
        held = state.cycle.snapshot_identity if state.cycle else ""
        self._snapshot_is_the_cycles = self._began_before and held == snapshot.identity

    # attempts

    def _run_attempts(self, snapshot: SourceSnapshot, work: list[DiskWork]) -> PointId:
        """Goes on as long as something is acknowledged now and then: only a connection that is no use is given up."""
        resumable = self._source.caps.snapshots is not SnapshotKind.NONE
        request = begin_request(self._job, snapshot, work, resumable=resumable)
        while True:
            before = self._transfer.acknowledged
            try:
                return self._retrying(is_lost_connection, lambda: self._attempt(request, snapshot, work))
            except ConnectionFailed as error:
                if error.permanent or self._transfer.acknowledged == before:
                    raise

    def _retrying(self, on: Callable[[Exception], bool], act: Callable[[], Done]) -> Done:
        """The one retry layer, with a pause before each further try. A stop ends the pause."""
        waits = chain([0.0], iter(Backoff(FIRST_WAIT_S, LONGEST_WAIT_S).next_s, None))

        def attempt() -> Done:
            self._stop.pause(next(waits))
            return act()

        return RETRYING(on, attempt)

    def _attempt(self, request: BeginRequest, snapshot: SourceSnapshot, work: list[DiskWork]) -> PointId:
        self.progress.tries += 1
        with self._stop.connected(self._tools.link.control) as control:
            answer = self._begin(control, request)
            coverages: dict[DiskId, Extents] = {}
            if answer.answer is BeginAnswer.RECEIVING:
                self._snapshot_is_the_cycles = True
                self._snapshots.remove_others()
                with self.progress.during(Stage.TRANSFER):
                    coverages = self._transfer.run(work)
                    snapshot.check_still_valid()
            with self.progress.during(Stage.COMMIT):
                return self._commit(control, coverages)

    def _begin(self, control: ControlChannel, request: BeginRequest) -> BeginReply:
        """Begin, or go on. If the cycle cannot begin with this snapshot, nobody will need it."""
        try:
            answer = control.begin(request)
        except PeerRefused as refused:
            began = self._began_before or self._snapshot_is_the_cycles
            self._snapshot_is_useless = refused.code == DROPPED or (not began and refused.code not in FENCED_OFF)
            raise
        self._log.info("cycle begun", answer=answer.answer, phase=answer.phase)
        if answer.answer is BeginAnswer.BUSY:
            raise ConnectorBusy(group=str(self._job.group))
        self.progress.begun = True
        return answer

    # commit

    def _commit(self, control: ControlChannel, coverages: dict[DiskId, Extents]) -> PointId:
        named = tuple(
            DiskCoverage(disk=disk, sha256=ex.coverage_hash(extents).hex(), covered_bytes=ex.total_bytes(extents))
            for disk, extents in coverages.items()
        )
        request = CommitRequest(cycle=self._job.cycle, coverages=named)
        while (reply := control.commit(request)).phase not in ANSWERED:
            self.progress.applied_bytes, self.progress.to_apply_bytes = reply.done_bytes, reply.total_bytes
            self.progress.answers += 1
        self.progress.applied_bytes = self.progress.to_apply_bytes = reply.total_bytes
        return self._point_of(reply)

    def _point_of(self, reply: CommitReply) -> PointId:
        if reply.phase in {Phase.FAILED, Phase.DROPPED} or reply.point is None:
            self._snapshot_is_useless = True
            raise CycleFailed(cycle=str(self._job.cycle), phase=reply.phase, problem=reply.problem or "no point")
        return reply.point

    # the end

    def _clean_up(self, work: list[DiskWork]) -> None:
        self._snapshots.remove_own()
        if self._snapshot_is_the_cycles:
            self._snapshots.release_older(work)

    def _give_up(self, error: BaseException) -> None:
        """Keep the snapshot only where a later attempt of the same cycle can go on with it."""
        self._log.error("attempt failed", code=getattr(error, "code", type(error).__name__), problem=str(error))
        began = self._began_before or self._snapshot_is_the_cycles
        if self._snapshot_is_useless or (is_busy(error) and not began):
            self._snapshots.remove_own()

    def _report(self, snapshot: SourceSnapshot, point: PointId) -> CycleReport:
        job, stats = self._job, tuple(self.progress.disks.values())
        taken_at = snapshot.taken_at if self._snapshot_is_the_cycles else None
        return CycleReport(
            job.plan, job.group, job.cycle, point, taken_at, snapshot.consistency, stats, dict(self.progress.seconds)
        )


def is_lost_connection(error: Exception) -> bool:
    """Whether connecting again can help."""
    return isinstance(error, ConnectionFailed) and not error.permanent


def is_busy(error: BaseException) -> bool:
    """Whether another cycle is almost finished: its point is answered before its staging is removed."""
    return isinstance(error, ConnectorBusy)


def may_pass(error: Exception) -> bool:
    """Whether asking again can help."""
    return is_busy(error) or is_lost_connection(error)
