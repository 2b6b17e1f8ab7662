"""One disk connection: open, digests, and a sealed stream that is verified, logged, synced and acknowledged."""

import base64
from contextlib import ExitStack, closing

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.connector.control_session import Desk
from dmcore.connector.errors import NotBegun
from dmcore.connector.syncer import LogSyncer
from dmcore.keys.provider import WrappedKeys
from dmcore.model.names import NodeName
from dmcore.seal.header import StreamHeader
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import CycleUnknown
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.state import CycleDisk
from dmcore.wire.coding import ReceivedMessage
from dmcore.wire.connection import Connection
from dmcore.wire.credit import CreditBudget
from dmcore.wire.errors import PeerGone, ProtocolError
from dmcore.wire.exchange import expect
from dmcore.wire.messages import DigestsRequest, OpenReply, OpenRequest, StreamStart
from dmcore.wire.serving import checked_window, send_ack, send_digests, send_grant, send_opened

OPEN_TIMEOUT_S = 30.0
IDLE_S = 900.0
"""How long a source may take to find the next changed block of a compare."""


class DiskSession:
    """Belongs to its connection's thread; its syncer is the only other thread that touches the disk."""

    def __init__(self, connection: Connection, peer: NodeName, desk: Desk, budget: CreditBudget) -> None:
        self._connection, self._peer, self._desk = connection, peer, desk
        self._share = budget.join(connection.wakeup)
        self._acknowledged = -1

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
            unknown = unknown_of(shadow, request, digest_map)
            send_opened(self._connection, self._opened(attempt, plan, wrapped), receiver.durable(), unknown)
            self._receive(_Stream(receiver, attempt, wrapped, syncer), digest_map, plan)

    def _opened(self, attempt: int, plan: CycleDisk, wrapped: WrappedKeys) -> OpenReply:
        return OpenReply(
            attempt=attempt, dek_version=wrapped.dek_version, kek_fingerprint=wrapped.kek_fingerprint,
            wrapped_dek=base64.b64encode(wrapped.dek).decode(),
            wrapped_digest_root=base64.b64encode(wrapped.digest_root).decode(),
            base_image=plan.base_image, disk_bytes=plan.disk_bytes, block_bytes=plan.block_bytes,
            credit=self._share.take(),
        )  # fmt: skip

    def _receive(self, stream: "_Stream", digest_map: DigestMap | None, plan: CycleDisk) -> None:
        grid = Grid(plan.disk_bytes, plan.block_bytes)
        heard, heard_bytes = self._connection.clock(), self._connection.received_bytes
        while True:
            received = self._connection.receive(IDLE_S)
            if self._connection.received_bytes != heard_bytes:  # a slow pace brings a batch little by little
                heard, heard_bytes = self._connection.clock(), self._connection.received_bytes
            if received is None and self._connection.clock() - heard >= IDLE_S:
                raise PeerGone(peer=self._connection.peer, problem=f"silent for {IDLE_S:g} s")
            # What has come is given before a wakeup is told: what is durable by now is acknowledged each time.
            self._acknowledge(stream)
            if received is None:
                continue
            if not isinstance(received, ReceivedMessage):
                stream.receiver.append(stream.attempt, received.data)
                self._desk.metrics.received_bytes.inc(len(received.data))
                stream.syncer.request()
            elif isinstance(received.message, StreamStart):
                header = StreamHeader.unpack(bytes(received.payload))
                stream.receiver.start(stream.attempt, header, stream.wrapped.model_dump_json().encode())
            elif isinstance(received.message, DigestsRequest):
                self._digests(received.message, digest_map, grid)
            else:
                raise ProtocolError(peer=self._connection.peer, problem="not a message of a disk connection")

    def _acknowledge(self, stream: "_Stream") -> None:
        """Pass on what the syncer or the credit budget has to say."""
        if stream.syncer.error is not None:
            raise stream.syncer.error
        durable = stream.syncer.durable
        if durable is not None and durable > self._acknowledged:
            self._share.give_back(durable - self._acknowledged)
            self._acknowledged = durable
            send_ack(self._connection, durable, self._share.take())
            self._desk.metrics.acks.inc()
        elif (credit := self._share.take()) > 0:
            send_grant(self._connection, credit)

    def _digests(self, request: DigestsRequest, digest_map: DigestMap | None, grid: Grid) -> None:
        first, count = checked_window(request, grid)
        if digest_map is None:
            raise ProtocolError(peer=self._connection.peer, problem="digests of a disk that has no image")
        send_digests(self._connection, request, digest_map.read(first, count))


class _Stream:
    """What a disk session receives into."""

    def __init__(self, receiver: DiskReceiver, attempt: int, wrapped: WrappedKeys, syncer: LogSyncer) -> None:
        self.receiver, self.attempt, self.wrapped, self.syncer = receiver, attempt, wrapped, syncer


def unknown_of(shadow: GroupShadow, request: OpenRequest, digest_map: DigestMap | None) -> Extents:
    """The blocks that this cycle must carry whatever the source says of them."""
    image = shadow.state.images.get(request.disk)
    if digest_map is None or image is None or not image.unknown_blocks:
        return ex.empty()
    return ex.normalize(digest_map.unknown())
