"""One value of every message, and Hypothesis strategies for all that there are."""

from datetime import UTC, datetime
from enum import Enum
from typing import Any
from uuid import UUID

from hypothesis import strategies as st
from pydantic import BaseModel

from dmcore.blocks.constants import DIGEST_BYTES
from dmcore.model.enums import Consistency, Reason, Rung
from dmcore.model.ids import CycleId, DiskId, GroupId, ImageId, PlanId, PointId
from dmcore.model.phase import Phase
from dmcore.wire import messages as m

PLAN = PlanId(UUID(int=1))
GROUP = GroupId(UUID(int=2))
CYCLE = CycleId(UUID(int=3))
DISK = DiskId(UUID(int=4))
IMAGE = ImageId(UUID(int=5))
MIB = 1 << 20

HELLO = m.Hello(versions=(1,), capabilities=(), connection=m.ConnectionKind.CONTROL, software="test/1")
DISK_HELLO = HELLO.model_copy(update={"connection": m.ConnectionKind.DISK})
OPEN_REQUEST = m.OpenRequest(group=GROUP, cycle=CYCLE, epoch=1, disk=DISK)
OPEN_REPLY = m.OpenReply(
    attempt=1, dek_version=1, kek_fingerprint="ab" * 32, wrapped_dek="AAAA", wrapped_digest_root="AAA=",
    base_image=IMAGE, disk_bytes=64 * MIB, block_bytes=65536, credit=2,
)  # fmt: skip
DISK_PLAN = m.DiskPlan(
    disk=DISK, machine="vm-1", label="disk 0", disk_bytes=64 * MIB, block_bytes=65536, rung=Rung.DELTA,
    reason=Reason.TRACKED, base_image=IMAGE, next_token="t2", expected_bytes=MIB,
)  # fmt: skip
BEGIN_REQUEST = m.BeginRequest(
    ticket="a.b.c", plan=PLAN, group=GROUP, cycle=CYCLE, epoch=7, source="machines", target="vault",
    snapshot_name="dmcore-1", snapshot_identity="s-1", resumable=True,
    source_time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), consistency=Consistency.CRASH, disks=(DISK_PLAN,),
)  # fmt: skip

EXAMPLES: tuple[m.Message, ...] = (
    HELLO,
    m.Welcome(version=1, capabilities=(), software="test/1"),
    m.ErrorMessage(code="lease.stale", message="epoch 3", correlation="c-1", permanent=False, exit_code=10),
    m.StateRequest(group=GROUP, plan=PLAN),
    m.StateReply(
        busy=True,
        epoch=6,
        cycle=m.OpenCycle(cycle=CYCLE, phase=Phase.RECEIVING, snapshot_identity="s-1", snapshot_name="dmcore-1"),
        finished=m.FinishedCycle(cycle=CYCLE, phase=Phase.DROPPED),
        disks=(
            m.DiskState(
                disk=DISK, image=IMAGE, token=None, disk_bytes=512, block_bytes=4096, unknown_blocks=1
            ),
        ),
    ),
    BEGIN_REQUEST,
    m.BeginReply(answer=m.BeginAnswer.RECEIVING, phase=Phase.RECEIVING, epoch=7),
    m.CommitRequest(cycle=CYCLE, coverages=(m.DiskCoverage(disk=DISK, sha256="00" * 32, covered_bytes=MIB),)),
    m.CommitReply(phase=Phase.SNAPSHOTTED, done_bytes=1, total_bytes=1, point=PointId(UUID(int=6)), problem=""),
    OPEN_REQUEST,
    OPEN_REPLY,
    m.ExtentsPage(what=m.PageOf.DURABLE, page=0),
    m.DigestsRequest(first_block=0, blocks=2),
    m.DigestsReply(first_block=0, blocks=2),
    m.StreamStart(),
    m.Ack(batch=0, credit=1),
    m.Grant(credit=1),
)  # fmt: skip
BY_TYPE: dict[str, m.Message] = {message.type: message for message in EXAMPLES}


def payload_for(message: m.Message) -> bytes:
    """The shortest payload that belongs to a message."""
    if isinstance(message, m.DigestsReply):
        return bytes(message.blocks * DIGEST_BYTES)
    return next(bytes(size) for size in (0, 16, 176) if message.payload_fits(size))


def _any(value: Any) -> st.SearchStrategy[Any]:
    """Other values of the kind of this one, inside every field's limits."""
    if isinstance(value, BaseModel):
        return messages_like(value)
    if isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        return st.lists(_any(value[0]), min_size=1, max_size=3).map(tuple)
    if isinstance(value, Enum):
        return st.sampled_from(type(value))
    return KINDS.get(type(value), st.just(value))


KINDS: dict[type, st.SearchStrategy[Any]] = {
    bool: st.booleans(),
    UUID: st.uuids(),
    datetime: st.datetimes(timezones=st.just(UTC)),
}


FREE: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("epoch", "first_block", "batch", "attempt", "covered_bytes"), st.integers(0, (1 << 63) - 1)),
    **dict.fromkeys(("done_bytes", "total_bytes", "unknown_blocks"), st.integers(0, (1 << 63) - 1)),
    "disk_bytes": st.integers(1, (1 << 54) - 1).map(lambda sectors: sectors * 512),
    "block_bytes": st.integers(12, 22).map(lambda power: 1 << power),
    "blocks": st.integers(1, 65536),
    "credit": st.integers(1, 65535),
    **dict.fromkeys(("label", "machine", "site", "target"), st.text(
        st.characters(exclude_categories=("Cc", "Cs")), min_size=1, max_size=256)),
    **dict.fromkeys(("next_token", "token"), st.none() | st.sampled_from(["52 de/7", "ü" * 1024])),
}  # fmt: skip


def messages_like(example: BaseModel) -> st.SearchStrategy[Any]:
    names = list(type(example).model_fields)
    parts = {name: FREE[name] if name in FREE else _any(getattr(example, name)) for name in names}
    return st.builds(type(example), **parts)


def any_message() -> st.SearchStrategy[m.Message]:
    return st.one_of([messages_like(example) for example in EXAMPLES])
