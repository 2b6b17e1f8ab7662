"""The messages of docs/protocol.md, version 1. Each is a strict, frozen value; nothing unknown is accepted.

`payload_fits` says which payload a message carries beside its JSON: most carry none.
"""

from enum import StrEnum
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.blocks.extents import EXTENT_BYTES
from dmcore.model.enums import Consistency, Reason, Rung
from dmcore.model.ids import CycleId, DiskId, GroupId, ImageId, PlanId, PointId
from dmcore.model.phase import Phase
from dmcore.seal.constants import STREAM_HEADER_BYTES
from dmcore.wire import fields as f
from dmcore.wire.records import MAX_PAYLOAD_BYTES


class ConnectionKind(StrEnum):
    """What a connection is for; said in the first message."""

    CONTROL = "control"
    DISK = "disk"


class BeginAnswer(StrEnum):
    """What `begin` comes to."""

    RECEIVING = "receiving"
    BUSY = "busy"
    COMMITTED = "committed"


class PageOf(StrEnum):
    """Which extents a page belongs to."""

    DURABLE = "durable"
    UNKNOWN = "unknown"


class Value(BaseModel):
    """What every message and every part of one is: strict, frozen, closed."""

    model_config: ClassVar[ConfigDict] = ConfigDict(strict=True, frozen=True, extra="forbid")


class BaseMessage(Value):
    """A message. `type` names it on the wire."""

    def payload_fits(self, payload_bytes: int) -> bool:
        """Whether a payload of this length may come with this message."""
        return payload_bytes == 0


# Both connections


class Hello(BaseMessage):
    """The client's first message."""

    type: Literal["hello"] = "hello"
    versions: Annotated[tuple[f.WireVersion, ...], Field(min_length=1, max_length=16)]
    capabilities: Annotated[tuple[f.Capability, ...], Field(max_length=64)]
    connection: ConnectionKind
    software: f.Name


class Welcome(BaseMessage):
    """The version chosen, and the capabilities that both sides have."""

    type: Literal["welcome"] = "welcome"
    version: f.WireVersion
    capabilities: Annotated[tuple[f.Capability, ...], Field(max_length=64)]
    software: f.Name


class ErrorMessage(BaseMessage):
    """Why the sender closes the connection now."""

    type: Literal["error"] = "error"
    code: f.Code
    message: f.Text
    correlation: f.Correlation
    permanent: bool
    exit_code: Annotated[int, Field(ge=1, le=255)]


# Control connection


class StateRequest(BaseMessage):
    """What does the connector hold of this group? Without a plan: whichever it is of, if of the asker's site."""

    type: Literal["state-request"] = "state-request"
    group: GroupId
    plan: PlanId | None


class OpenCycle(Value):
    """The cycle of a group that is not finished."""

    cycle: CycleId
    phase: Phase
    snapshot_identity: f.Token
    snapshot_name: f.Name


class FinishedCycle(Value):
    """The last cycle of a group that has ended, while no other one has begun: nothing more can come of it."""

    cycle: CycleId
    phase: Phase


class DiskState(Value):
    """What a shadow holds. `token` is what changes are to be asked since."""

    disk: DiskId
    image: ImageId
    token: f.Token | None
    disk_bytes: f.DiskBytes
    block_bytes: f.BlockBytes
    unknown_blocks: f.Count


class StateReply(BaseMessage):
    """The group's newest epoch, its open cycle or the one that has ended last, its shadows."""

    type: Literal["state-reply"] = "state-reply"
    busy: bool
    epoch: f.Count
    cycle: OpenCycle | None
    finished: FinishedCycle | None = None
    disks: Annotated[tuple[DiskState, ...], Field(max_length=f.MAX_DISKS)]


class DiskPlan(Value):
    """How one disk is taken in this cycle, and why."""

    disk: DiskId
    machine: f.Name
    label: f.Name
    disk_bytes: f.DiskBytes
    block_bytes: f.BlockBytes
    rung: Rung
    reason: Reason
    base_image: ImageId
    next_token: f.Token | None
    expected_bytes: f.Count


class BeginRequest(BaseMessage):
    """Start, or go on with, a cycle under this ticket and epoch."""

    type: Literal["begin-request"] = "begin-request"
    ticket: f.Ticket
    plan: PlanId
    group: GroupId
    cycle: CycleId
    epoch: f.Count
    successor: f.Successor = 0
    source: f.Name
    target: f.Name
    snapshot_name: f.Name
    snapshot_identity: f.Token
    resumable: bool
    source_time: f.UtcTime
    consistency: Consistency
    disks: Annotated[tuple[DiskPlan, ...], Field(min_length=1, max_length=f.MAX_DISKS)]

    @model_validator(mode="after")
    def _each_disk_once(self) -> Self:
        if len({plan.disk for plan in self.disks}) != len(self.disks):
            raise ValueError("a disk is planned twice")
        return self


class BeginReply(BaseMessage):
    """Whether blocks may come, and the phase of the asked cycle, or of the one that is in its way."""

    type: Literal["begin-reply"] = "begin-reply"
    answer: BeginAnswer
    phase: Phase
    epoch: f.Count


class DiskCoverage(Value):
    """The SHA-256 over one disk's coverage, and its bytes."""

    disk: DiskId
    sha256: f.Sha256
    covered_bytes: f.Count


class CommitRequest(BaseMessage):
    """Every block of these disks was acknowledged: seal, apply, snapshot. Repeated until it is done."""

    type: Literal["commit-request"] = "commit-request"
    cycle: CycleId
    coverages: Annotated[tuple[DiskCoverage, ...], Field(max_length=f.MAX_DISKS)]


class CommitReply(BaseMessage):
    """How far the cycle is. `point` is set from SNAPSHOTTED on, `problem` when FAILED or DROPPED."""

    type: Literal["commit-reply"] = "commit-reply"
    phase: Phase
    done_bytes: f.Count
    total_bytes: f.Count
    point: PointId | None
    problem: f.Text


# Disk connection


class OpenRequest(BaseMessage):
    """Open one disk of a cycle that has begun. Ends that disk's older streams."""

    type: Literal["open-request"] = "open-request"
    group: GroupId
    cycle: CycleId
    epoch: f.Count
    disk: DiskId


class OpenReply(BaseMessage):
    """Wrapped keys, geometry, first credit. The pages that it counts follow, those of durable extents first."""

    type: Literal["open-reply"] = "open-reply"
    attempt: f.Count
    dek_version: f.DekVersion
    kek_fingerprint: f.Name
    wrapped_dek: f.Wrapped
    wrapped_digest_root: f.Wrapped
    base_image: ImageId
    disk_bytes: f.DiskBytes
    block_bytes: f.BlockBytes
    credit: f.Credit
    durable_pages: f.PageCount = 0
    unknown_pages: f.PageCount = 0


class ExtentsPage(BaseMessage):
    """One page of extents, packed in the payload; pages of each kind count from 0."""

    type: Literal["extents-page"] = "extents-page"
    what: PageOf
    page: f.PageCount

    def payload_fits(self, payload_bytes: int) -> bool:
        """Whole extents, at least one."""
        return 0 < payload_bytes <= MAX_PAYLOAD_BYTES and payload_bytes % EXTENT_BYTES == 0


class DigestsRequest(BaseMessage):
    """What should these blocks of the shadow be?"""

    type: Literal["digests-request"] = "digests-request"
    first_block: f.Count
    blocks: Annotated[int, Field(ge=1, le=f.DIGEST_WINDOW_BLOCKS)]


class DigestsReply(BaseMessage):
    """16 bytes a block in the payload: zeros for a zero block, 0xFF for one not known."""

    type: Literal["digests-reply"] = "digests-reply"
    first_block: f.Count
    blocks: Annotated[int, Field(ge=1, le=f.DIGEST_WINDOW_BLOCKS)]

    def payload_fits(self, payload_bytes: int) -> bool:
        """One digest for each block."""
        return payload_bytes == self.blocks * DIGEST_BYTES


class StreamStart(BaseMessage):
    """The stream header is in the payload; batches follow, OPEN first."""

    type: Literal["stream-start"] = "stream-start"

    def payload_fits(self, payload_bytes: int) -> bool:
        """The stream header."""
        return payload_bytes == STREAM_HEADER_BYTES


class Ack(BaseMessage):
    """This batch and all before it are durable; `credit` more may be sent."""

    type: Literal["ack"] = "ack"
    batch: f.Count
    credit: f.Credit


class Grant(BaseMessage):
    """`credit` more batches may be sent, though none became durable since the last Ack. 0: staging waits for room."""

    type: Literal["grant"] = "grant"
    credit: f.Credit


Message = (
    Hello | Welcome | ErrorMessage
    | StateRequest | StateReply | BeginRequest | BeginReply | CommitRequest | CommitReply
    | OpenRequest | OpenReply | ExtentsPage | DigestsRequest | DigestsReply | StreamStart | Ack | Grant
)  # fmt: skip
