"""One control connection: an attempt's `state`, `begin` and `commit`."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from dmcore.connector.bindings import Bindings
from dmcore.connector.errors import NotBegun
from dmcore.connector.groups import Groups
from dmcore.connector.keyring import PlanKeyring
from dmcore.connector.metrics import ConnectorMetrics
from dmcore.connector.roller import Roller
from dmcore.connector.senders import Senders
from dmcore.connector.tickets import Presented, TicketGate
from dmcore.host.clock import Clock
from dmcore.model.ids import CycleId, DiskId, point_id
from dmcore.model.names import NodeName
from dmcore.model.phase import ANSWERED, FINISHED, Phase
from dmcore.shadow.admission import Answer
from dmcore.shadow.errors import CycleDropped
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.state import Cycle, CycleDisk, GroupState, ShadowImage
from dmcore.wire.coding import ReceivedMessage
from dmcore.wire.connection import Connection
from dmcore.wire.errors import ProtocolError
from dmcore.wire.messages import (
    BeginAnswer,
    BeginReply,
    BeginRequest,
    CommitReply,
    CommitRequest,
    DiskPlan,
    DiskState,
    FinishedCycle,
    OpenCycle,
    StateReply,
    StateRequest,
)

IDLE_S = 7 * 86_400.0
"""How long an attempt may read and send, or be paused, between two words on its control connection.

An appliance that is gone is noticed much sooner: by TCP's keepalive, or by its successor's epoch."""
COMMIT_WAIT_S = 1.0
"""How long a `commit` waits for the cycle's end before it answers with progress."""

ANSWERS = {
    Answer.START: BeginAnswer.RECEIVING,
    Answer.REPLACE: BeginAnswer.RECEIVING,
    Answer.CONTINUE: BeginAnswer.RECEIVING,
    Answer.BUSY: BeginAnswer.BUSY,
    Answer.COMMITTED: BeginAnswer.COMMITTED,
}


@dataclass(frozen=True)
class Desk:
    """What every session works with."""

    groups: Groups
    keyring: PlanKeyring
    bindings: Bindings
    gate: TicketGate
    roller: Roller
    senders: Senders
    clock: Clock
    metrics: ConnectorMetrics = field(default_factory=ConnectorMetrics)
    monotonic: Callable[[], float] = time.monotonic


class ControlSession:
    """Belongs to its connection's thread."""

    def __init__(self, connection: Connection, peer: NodeName, desk: Desk) -> None:
        self._connection, self._peer, self._desk = connection, peer, desk
        self._shadow: GroupShadow | None = None
        self._epoch = 0
        self._began_s = 0.0

    def run(self) -> None:
        """Answer until the appliance closes. Raises what ends the session."""
        while (received := self._connection.receive(IDLE_S)) is not None:
            message = received.message if isinstance(received, ReceivedMessage) else None
            if isinstance(message, StateRequest):
                self._connection.send_message(self._state(message))
            elif isinstance(message, BeginRequest):
                self._connection.send_message(self._begin(message))
            elif isinstance(message, CommitRequest):
                self._connection.send_message(self._commit(message))
            else:
                raise ProtocolError(peer=self._connection.peer, problem="not a message of a control connection")

    def _state(self, request: StateRequest) -> StateReply:
        shadow = self._desk.groups.find(request.group, request.plan)
        if shadow is None:
            return StateReply(busy=False, epoch=0, cycle=None, disks=())
        self._desk.bindings.require_site(shadow.state.plan, self._peer.site)
        if state_reply(shadow.state).busy:
            self._finish_soon(shadow)
        return state_reply(shadow.state)

    def _finish_soon(self, shadow: GroupShadow) -> None:
        """Who hears of a busy group asks again: what has stopped must not stay so, and it may soon be over."""
        self._desk.roller.start(shadow)
        if _phase(shadow) is Phase.DROPPING:  # in the way of the asker's own cycle, which has a snapshot already
            self._desk.roller.settle(shadow, COMMIT_WAIT_S)

    def _begin(self, request: BeginRequest) -> BeginReply:
        shadow = self._admit(request)
        try:
            answer = shadow.begin(self._cycle(request))
        except CycleDropped:
            self._desk.roller.start(shadow)  # what it had written is to be accounted for
            raise
        self._shadow, self._epoch, self._began_s = shadow, request.epoch, self._desk.monotonic()
        if answer in {Answer.BUSY, Answer.COMMITTED}:
            self._desk.roller.start(shadow)
        return BeginReply(
            answer=ANSWERS[answer], phase=_phase_at(shadow, request.cycle, answer), epoch=shadow.state.epoch
        )

    def _admit(self, request: BeginRequest) -> GroupShadow:
        """Ticket and binding first: nothing is made on behalf of a peer before both have passed."""
        known = self._desk.groups.find(request.group, request.plan)
        highest = Presented(known.state.epoch, known.state.node or None) if known else Presented()
        ticket = self._desk.gate.check(
            request.ticket, node=self._peer.node, plan=request.plan, group=request.group, cycle=request.cycle,
            highest=highest, now=self._desk.clock(), successor=request.successor,
        )  # fmt: skip
        if ticket.epoch != request.epoch:
            raise NotBegun(problem=f"the ticket is of epoch {ticket.epoch}, the begin of {request.epoch}")
        machines = [disk.machine for disk in request.disks]
        self._desk.groups.require_target(request.target)
        at = (self._peer.site, request.source, request.target)
        self._desk.bindings.require(request.plan, request.group, at, machines)
        return self._desk.groups.ensure(request.group, request.plan, request.target)

    def _cycle(self, request: BeginRequest) -> Cycle:
        version = self._desk.keyring.current(request.plan).dek_version
        return Cycle(
            id=request.cycle, phase=Phase.RECEIVING, epoch=request.epoch, successor=request.successor,
            node=self._peer.node,
            snapshot_name=request.snapshot_name, snapshot_identity=request.snapshot_identity,
            resumable=request.resumable, source_time=request.source_time, consistency=request.consistency,
            disks={plan.disk: cycle_disk(plan, version) for plan in request.disks},
        )  # fmt: skip

    def _commit(self, request: CommitRequest) -> CommitReply:
        shadow = self._shadow
        if shadow is None:
            raise NotBegun(problem="commit before begin")
        named = {DiskId(each.disk): bytes.fromhex(each.sha256) for each in request.coverages}
        receiving = _phase(shadow) is Phase.RECEIVING
        phase = shadow.commit(request.cycle, self._epoch, named)
        if receiving and phase is Phase.SEALED:
            self._desk.metrics.received(self._desk.monotonic() - self._began_s)
        if phase not in FINISHED:
            self._desk.roller.start(shadow)
            self._desk.roller.wait(shadow, COMMIT_WAIT_S)
        return self._progress(shadow, request.cycle)

    def _progress(self, shadow: GroupShadow, asked: CycleId) -> CommitReply:
        """How far the asked cycle is: not another one that the group has begun since."""
        state = shadow.state
        cycle = state.cycle
        if cycle is None or cycle.id != asked:
            if not shadow.has_made(asked):
                raise NotBegun(problem=f"the group has gone on from cycle {asked}, which has no point")
            point = point_id(asked, state.group)
            return CommitReply(phase=Phase.RECLAIMED, done_bytes=0, total_bytes=0, point=point, problem="")
        has_point = cycle.phase in ANSWERED - {Phase.FAILED, Phase.DROPPED}
        total_bytes = sum(disk.log_bytes for disk in cycle.disks.values())
        applied = shadow.skipped_bytes + self._desk.roller.done_bytes(state.group)
        return CommitReply(
            phase=cycle.phase,
            done_bytes=min(applied, total_bytes) if cycle.phase is Phase.SEALED else total_bytes,
            total_bytes=total_bytes,
            point=point_id(cycle.id, state.group) if has_point else None,
            problem=cycle.problem,
        )


def _phase(shadow: GroupShadow) -> Phase | None:
    cycle = shadow.state.cycle
    return cycle.phase if cycle else None


def _phase_at(shadow: GroupShadow, asked: CycleId, answer: Answer) -> Phase:
    """The phase that goes with the answer: the asked cycle's, or of the one that is in its way."""
    held = shadow.state.cycle
    if held is None or (answer is Answer.COMMITTED and held.id != asked):
        return Phase.RECLAIMED
    return held.phase


def state_reply(state: GroupState) -> StateReply:
    """What an appliance is told of a group."""
    cycle = state.cycle
    opened = None
    if cycle is not None and cycle.phase not in FINISHED:
        opened = OpenCycle(
            cycle=cycle.id,
            phase=cycle.phase,
            snapshot_identity=cycle.snapshot_identity,
            snapshot_name=cycle.snapshot_name,
        )
    finished = FinishedCycle(cycle=cycle.id, phase=cycle.phase) if cycle is not None and opened is None else None
    busy = opened is not None and opened.phase is not Phase.RECEIVING
    disks = tuple(_disk_state(disk, image) for disk, image in state.images.items())
    return StateReply(busy=busy, epoch=state.epoch, cycle=opened, finished=finished, disks=disks)


def _disk_state(disk: DiskId, image: ShadowImage) -> DiskState:
    return DiskState(
        disk=disk, image=image.image, token=image.token, disk_bytes=image.disk_bytes, block_bytes=image.block_bytes,
        unknown_blocks=image.unknown_blocks,
    )  # fmt: skip


def cycle_disk(plan: DiskPlan, dek_version: int) -> CycleDisk:
    """A disk's part of a cycle as it is kept."""
    return CycleDisk(
        machine=plan.machine, label=plan.label, disk_bytes=plan.disk_bytes, block_bytes=plan.block_bytes,
        rung=plan.rung,
        reason=plan.reason, base_image=plan.base_image, next_token=plan.next_token, dek_version=dek_version,
        expected_bytes=plan.expected_bytes,
    )  # fmt: skip
