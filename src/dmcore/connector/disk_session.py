"""One disk connection: open, digests, and a sealed stream that is verified, logged, synced and acknowledged."""

import base64
from contextlib import ExitStack, closing
from functools import partial

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.connector.control_session import Desk
from dmcore.connector.errors import NotBegun
from dmcore.connector.intake import RETRY_S, Feed, Intake
from dmcore.connector.syncer import LogSyncer
from dmcore.keys.provider import WrappedKeys
from dmcore.model.ids import DiskId
from dmcore.model.names import NodeName
from dmcore.seal.header import StreamHeader
from dmcore.shadow import segments
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import CycleUnknown
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.state import CycleDisk
from dmcore.wire.coding import Received, ReceivedMessage
from dmcore.wire.connection import Connection
from dmcore.wire.credit import CreditBudget
from dmcore.wire.errors import PeerGone, ProtocolError
from dmcore.wire.exchange import expect
from dmcore.wire.messages import DigestsRequest, OpenReply, OpenRequest, StreamStart
from dmcore.wire.serving import checked_window, send_ack, send_digests, send_grant, send_opened

OPEN_TIMEOUT_S = 30.0
IDLE_S = 900.0
"""How long a source may take to find the next changed block of a compare."""
KEEPALIVE_S = 60.0
"""How often senders are told to wait on while staging lacks room: they give up after five times as long."""


class DiskSession:
    """Belongs to its connection's thread; its syncer is the only other thread that touches the disk."""

    def __init__(self, connection: Connection, peer: NodeName, desk: Desk, budget: CreditBudget) -> None:
        self._connection, self._peer, self._desk = connection, peer, desk
        self._share = budget.join(connection.wakeup)
        self._acknowledged = -1
        self._told = connection.clock()
        self._undrained_bytes = 0
        """How much came since the disk was last redone, if it is direct."""

    def run(self) -> None:
        """Serve one disk until the appliance closes. Raises what ends the session."""
        try:
            request, _ = expect(self._connection, OpenRequest, OPEN_TIMEOUT_S)
            self._serve(request, *self._find(request))
        finally:
            self._share.leave()

    def _find(self, request: OpenRequest) -> tuple[GroupShadow, CycleDisk]:
        for shadow in self._desk.groups.all():
            state, cycle = shadow.state, shadow.state.cycle
            if state.group != request.group or cycle is None or cycle.id != request.cycle:
                continue
            if state.node != self._peer.node:
                raise NotBegun(problem=f"cycle {request.cycle} was begun by another node")
            if request.disk in cycle.disks:
                return shadow, cycle.disks[request.disk]
        raise CycleUnknown(group=str(request.group), problem=f"disk {request.disk} is not in a cycle {request.cycle}")

    def _serve(self, request: OpenRequest, shadow: GroupShadow, plan: CycleDisk) -> None:
        receiver, attempt = shadow.open(request.cycle, request.epoch, request.disk)
        with ExitStack() as undo:
            undo.enter_context(self._desk.senders.sending(request.group, request.disk, attempt, self._connection))
            wrapped = self._desk.keyring.wrapped(shadow.state.plan, plan.dek_version)
            digest_map = None
            if request.disk in shadow.state.images:
                digest_map = undo.enter_context(closing(shadow.digest_map(request.disk)))
            syncer = LogSyncer(receiver, attempt, self._connection.wakeup)
            undo.callback(syncer.stop)
            feed = Feed(
                receiver, attempt, wrapped.model_dump_json().encode(), syncer.request,
                lambda: self._go_direct(shadow, request.disk),
            )  # fmt: skip
            intake = Intake(feed, self._desk.groups.room, self._connection.wakeup, self._connection.clock)
            undo.callback(intake.stop_waiting)
            unknown = unknown_of(shadow, request.disk, digest_map, receiver)
            send_opened(self._connection, self._opened(attempt, plan, wrapped), receiver.durable(), unknown)
            self._drain = partial(self._drain_disk, shadow, request.disk, intake)
            self._receive(intake, syncer, digest_map, Grid(plan.disk_bytes, plan.block_bytes))

    def _opened(self, attempt: int, plan: CycleDisk, wrapped: WrappedKeys) -> OpenReply:
        return OpenReply(
            attempt=attempt, dek_version=wrapped.dek_version, kek_fingerprint=wrapped.kek_fingerprint,
            wrapped_dek=base64.b64encode(wrapped.dek).decode(),
            wrapped_digest_root=base64.b64encode(wrapped.digest_root).decode(),
            base_image=plan.base_image, disk_bytes=plan.disk_bytes, block_bytes=plan.block_bytes,
            credit=self._share.take(),
        )  # fmt: skip

    def _receive(self, intake: Intake, syncer: LogSyncer, digest_map: DigestMap | None, grid: Grid) -> None:
        heard, heard_bytes = self._connection.clock(), self._connection.received_bytes
        while True:
            received = self._connection.receive(min(IDLE_S, RETRY_S if intake.waiting else KEEPALIVE_S))
            # A slow pace brings a batch little by little; and who waits for room may not say anything.
            if self._connection.received_bytes != heard_bytes or intake.waiting:
                heard, heard_bytes = self._connection.clock(), self._connection.received_bytes
            if received is None and self._connection.clock() - heard >= IDLE_S:
                raise PeerGone(peer=self._connection.peer, problem=f"silent for {IDLE_S:g} s")
            # What has come is given before a wakeup is told: what is durable by now is acknowledged each time.
            self._acknowledge(syncer)
            intake.go_on()
            if received is not None:
                self._take(received, intake, digest_map, grid)
            self._drain()

    def _take(self, received: Received, intake: Intake, digest_map: DigestMap | None, grid: Grid) -> None:
        if not isinstance(received, ReceivedMessage):
            self._desk.metrics.received_bytes.inc(len(received.data))
            self._undrained_bytes += len(received.data)
            intake.put(received.data)
        elif isinstance(received.message, StreamStart):
            intake.put(StreamHeader.unpack(bytes(received.payload)))
        elif isinstance(received.message, DigestsRequest):
            self._digests(received.message, digest_map, grid)
        else:
            raise ProtocolError(peer=self._connection.peer, problem="not a message of a disk connection")

    def _acknowledge(self, syncer: LogSyncer) -> None:
        """Pass on what the syncer, the credit budget, or a lack of room has to say."""
        if syncer.error is not None:
            raise syncer.error
        durable, now = syncer.durable, self._connection.clock()
        if durable is not None and durable > self._acknowledged:
            self._share.give_back(durable - self._acknowledged)
            self._acknowledged = durable
            send_ack(self._connection, durable, self._share.take())
            self._desk.metrics.acks.inc()
        elif (credit := self._share.take()) > 0:
            send_grant(self._connection, credit)
        elif self._desk.groups.room.short and now - self._told >= KEEPALIVE_S:
            send_grant(self._connection, 0)
        else:
            return
        self._told = now

    def _go_direct(self, shadow: GroupShadow, disk: DiskId) -> None:
        """Have a disk that lacks room redone while it is received."""
        shadow.go_direct(disk)
        self._desk.roller.start(shadow)

    def _drain_disk(self, shadow: GroupShadow, disk: DiskId, intake: Intake) -> None:
        """Have a direct disk redone once a segment of it more is there, or whatever there is of it if room lacks."""
        if not intake.waiting and self._undrained_bytes < segments.SEGMENT_BYTES:
            return
        self._undrained_bytes = 0
        if disk in shadow.state.direct_disks:
            self._desk.roller.start(shadow)

    def _digests(self, request: DigestsRequest, digest_map: DigestMap | None, grid: Grid) -> None:
        first, count = checked_window(request, grid)
        if digest_map is None:
            raise ProtocolError(peer=self._connection.peer, problem="digests of a disk that has no image")
        send_digests(self._connection, request, digest_map.expected(grid, first, count))


def unknown_of(shadow: GroupShadow, disk: DiskId, digest_map: DigestMap | None, receiver: DiskReceiver) -> Extents:
    """The blocks that this cycle must carry whatever the source says of them."""
    image = shadow.state.images.get(disk)
    if digest_map is None or image is None or not image.unknown_blocks:
        return ex.empty()
    unknown = ex.normalize(digest_map.unknown())
    # What was sent of a direct disk may be redone, and so is not unknown any more: it is the cycle's all the same.
    return ex.union(unknown, receiver.durable()) if disk in shadow.state.direct_disks else unknown
