"""An appliance driven by hand, over real TLS: every message one at a time, good or bad."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import uuid4

import numpy as np

from dmcore.appliance.link import Link
from dmcore.appliance.pairing import Pairing
from dmcore.appliance.pump import header_for
from dmcore.blocks import extents as ex
from dmcore.keys.local import LocalKek
from dmcore.keys.provider import PlanKeys, WrappedKeys, unwrap_all
from dmcore.lab.layout import SOURCE, TARGET
from dmcore.model.enums import Consistency, Reason, Rung
from dmcore.model.ids import NO_IMAGE, CycleId, DiskId
from dmcore.model.phase import ANSWERED
from dmcore.native.sealing import worst_case_bytes
from dmcore.node.identity import Identity
from dmcore.node.settings import load_appliance
from dmcore.seal.derive import digest_key
from dmcore.seal.header import StreamHeader
from dmcore.seal.reference_codec import block_digest
from dmcore.seal.stream import StreamWriter
from dmcore.wire.calls import ControlChannel
from dmcore.wire.disk_channel import DiskChannel, OpenedDisk
from dmcore.wire.messages import (
    BeginReply,
    BeginRequest,
    CommitReply,
    CommitRequest,
    DiskCoverage,
    DiskPlan,
    DiskState,
    OpenReply,
    OpenRequest,
    StateReply,
    StateRequest,
)
from tests.connector.kit import BLOCK, BLOCKS, TIMEOUT_S, Disk, blocks_of, extents_of

if TYPE_CHECKING:
    from tests.connector.rig import Rig

Made = TypeVar("Made")


@dataclass
class Appliance:
    """An appliance's messages, one at a time. Everything it opened is closed by `close`."""

    rig: "Rig"
    identity: Identity
    pairing: Pairing
    _open: ExitStack = field(default_factory=ExitStack)

    @property
    def link(self) -> Link:
        pairing = replace(self.pairing, address=self.rig.connector.server.address)
        return Link.of(pairing, self.identity)

    def close(self) -> None:
        self._open.close()

    def kept(self, channel: Made) -> Made:
        self._open.callback(channel.close)  # type: ignore[attr-defined]  # both kinds of channel have it
        return channel

    def control(self) -> ControlChannel:
        return self.kept(self.link.control())

    def disk_channel(self) -> DiskChannel:
        return self.kept(self.link.disk())

    def state(self) -> StateReply:
        return self.control().state(StateRequest(group=self.rig.group, plan=self.rig.plan))

    def begin(self, *disks: Disk, **changes: Any) -> "Attempt":
        """A new cycle of these disks under a new epoch, begun."""
        attempt = self.attempt(*disks, **changes)
        attempt.begin()
        return attempt

    def attempt(self, *disks: Disk, **changes: Any) -> "Attempt":
        return Attempt(self, disks, CycleId(uuid4()), self.rig.next_epoch(), changes)

    def run(self, *disks: Disk, carry: Sequence[int] | None = None) -> "Attempt":
        """A whole cycle: all blocks of each disk, or these."""
        attempt = self.begin(*disks)
        for disk in disks:
            attempt.send(disk, disk.blocks if carry is None else carry)
        attempt.finish()
        return attempt


@dataclass
class Attempt:
    """One attempt at one cycle, on a control connection of its own."""

    appliance: Appliance
    disks: Sequence[Disk]
    cycle: CycleId
    epoch: int
    changes: dict[str, Any] = field(default_factory=dict)
    carried: dict[DiskId, set[int]] = field(default_factory=dict)
    reply: BeginReply | None = None

    def __post_init__(self) -> None:
        self.control = self.appliance.control()
        self.held: dict[DiskId, DiskState] = {}

    def begin(self, **changes: Any) -> BeginReply:
        self.held = {disk.disk: disk for disk in self.appliance.state().disks}
        self.reply = self.control.begin(self.request(**{**self.changes, **changes}))
        return self.reply

    def again(self, **changes: Any) -> "Attempt":
        """The same cycle and snapshot under a new epoch."""
        later = replace(self, epoch=self.appliance.rig.next_epoch(), changes={**self.changes, **changes})
        later.begin()
        return later

    def request(self, **changes: Any) -> BeginRequest:
        rig = self.appliance.rig
        values: dict[str, Any] = {
            "plan": rig.plan, "group": rig.group, "cycle": self.cycle, "epoch": self.epoch,
            "source": SOURCE, "target": TARGET,
            "snapshot_name": f"dmcore-{self.cycle}", "snapshot_identity": f"of {self.cycle}",
            "resumable": True, "source_time": datetime.now(UTC), "consistency": Consistency.CRASH,
            "disks": tuple(self.plan_of(disk) for disk in self.disks),
        }  # fmt: skip
        values |= changes
        values.setdefault("ticket", rig.ticket(self.appliance, self.cycle, self.epoch))
        return BeginRequest(**values)

    def plan_of(self, disk: Disk, **changes: Any) -> DiskPlan:
        held = self.held.get(disk.id)
        values: dict[str, Any] = {
            "disk": disk.id, "machine": disk.machine, "label": disk.label, "disk_bytes": len(disk.data),
            "block_bytes": BLOCK, "rung": Rung.DELTA if held else Rung.SEED,
            "reason": Reason.TRACKED if held else Reason.NO_IMAGE, "base_image": held.image if held else NO_IMAGE,
            "next_token": f"token {self.cycle}", "expected_bytes": 0,
        }  # fmt: skip
        return DiskPlan(**{**values, **changes})

    def open(self, disk: Disk, **changes: Any) -> "Sender":
        channel = self.appliance.disk_channel()
        asked = {"group": self.appliance.rig.group, "cycle": self.cycle, "epoch": self.epoch, "disk": disk.id}
        return Sender(self, disk, channel, channel.open(OpenRequest(**{**asked, **changes})))

    def send(self, disk: Disk, blocks: Sequence[int]) -> "Sender":
        """A whole stream, acknowledged, and its connection closed."""
        sender = self.open(disk)
        sender.start()
        sender.send(sender.sealed(*blocks))
        sender.finish()
        sender.channel.close()
        return sender

    def commit(self) -> CommitReply:
        """Commit until it is answered."""
        while (reply := self.commit_once()).phase not in ANSWERED:
            pass
        return reply

    def commit_once(self) -> CommitReply:
        named = tuple(
            DiskCoverage(
                disk=disk.id, sha256=ex.coverage_hash(extents).hex(), covered_bytes=ex.total_bytes(extents)
            )
            for disk in self.disks
            for extents in [extents_of(sorted(self.carried.get(disk.id, ())))]
        )  # fmt: skip
        return self.control.commit(CommitRequest(cycle=self.cycle, coverages=named))

    def finish(self) -> CommitReply:
        """Commit, and wait until nothing is left to do for the cycle."""
        reply = self.commit()
        self.control.close()
        self.appliance.rig.wait_until_finished()
        return reply


@dataclass
class Sender:
    """One disk connection and the stream on it."""

    attempt: Attempt
    disk: Disk
    channel: DiskChannel
    opened: OpenedDisk

    def __post_init__(self) -> None:
        rig = self.attempt.appliance.rig
        self.keys = open_keys(rig, self.opened.reply)
        self.digest_key = digest_key(self.keys.digest_root, self.disk.id)
        ours = (rig.plan, self.disk.id, self.attempt.cycle, self.attempt.epoch)
        self.template = header_for(self.opened, StreamHeader(1, *ours, 1, len(self.disk.data)))
        self.writer = StreamWriter(self.template, self.keys.dek, self.digest_key)
        self._out = bytearray(worst_case_bytes(BLOCKS, BLOCK))

    @property
    def durable(self) -> set[int]:
        return blocks_of(self.opened.durable)

    def start(self, header: StreamHeader | None = None) -> None:
        """The stream's header and its OPEN, acknowledged."""
        self.channel.start(header or self.writer.header)
        self.send(bytes(self._out[: self.writer.open(self._out)]))

    def sealed(self, *blocks: int) -> bytes:
        numbers = np.array(blocks, dtype=np.int64)
        raw = b"".join(self.disk.block(number) for number in blocks)
        batch = self.writer.seal(numbers, raw, self._out)
        self.attempt.carried.setdefault(self.disk.id, set()).update(blocks)
        return bytes(self._out[: batch.used])

    def send(self, *batches: bytes) -> None:
        """Send batches; returns when the last one is acknowledged."""
        for batch in batches:
            number = self.channel.send_batch(memoryview(batch), TIMEOUT_S)
        self.channel.wait_durable(number, TIMEOUT_S)

    def finish(self) -> None:
        self.send(bytes(self._out[: self.writer.final(self._out)]))

    def forget(self, *blocks: int) -> None:
        """Blocks that were sealed and are not durable after all."""
        self.attempt.carried[self.disk.id] -= set(blocks)

    def digest(self, block: int) -> bytes:
        return block_digest(self.digest_key, block, self.disk.block(block))


def open_keys(rig: "Rig", reply: OpenReply) -> PlanKeys:
    kek = load_appliance(rig.lab.appliance_config).kek
    wrapped = WrappedKeys.model_validate(
        {
            "plan": rig.plan, "dek_version": reply.dek_version, "kek_fingerprint": reply.kek_fingerprint,
            "dek": reply.wrapped_dek, "digest_root": reply.wrapped_digest_root,
        }
    )  # fmt: skip
    return unwrap_all(LocalKek(kek.file, kek.fingerprint), wrapped)


def goes_on(rig: "Rig", attempt: Attempt, disk: Disk, durable: set[int]) -> None:
    """Exactly these blocks are durable; a new stream brings the rest, and the image is right."""
    again = attempt.open(disk)
    assert again.durable == durable
    again.start()
    again.send(again.sealed(*sorted(set(disk.blocks) - durable)))
    again.finish()
    assert attempt.finish().point is not None
    assert rig.image_of(disk, attempt.cycle) == bytes(disk.data)
