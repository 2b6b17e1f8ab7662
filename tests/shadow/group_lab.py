"""A group's shadows under test: real target folder, real log, an oracle of what each image should be."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID, uuid4

import numpy as np

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.model.enums import Consistency, Reason, Rung
from dmcore.model.ids import CycleId, DiskId, GroupId, NodeId, PlanId, PointId
from dmcore.model.phase import Phase
from dmcore.native.batches import SealedBatch
from dmcore.native.sealing import worst_case_bytes
from dmcore.seal import derive
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import Codec, StreamWriter
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.kit import GroupKit, GroupLimits
from dmcore.shadow.places import GroupPlaces
from dmcore.shadow.points import Point
from dmcore.shadow.receiver import UnsealKeys
from dmcore.shadow.state import Cycle, CycleDisk, GroupState
from dmcore.shadow.storage import Storage
from dmcore.targets.base import Target
from dmcore.targets.folder import FolderTarget

NODE = NodeId("0" * 64)
PLAN = PlanId(UUID(int=1))
GROUP = GroupId(UUID(int=2))
DISK_A = DiskId(UUID(int=0xA))
DISK_B = DiskId(UUID(int=0xB))
BLOCK = 4096
KEYS = UnsealKeys(bytes(range(32)), bytes(range(32, 64)))
WRAPPED = b'{"wrapped": "keys"}'
LIMITS = GroupLimits(reserve_bytes=0)


def known_keys(version: int) -> UnsealKeys:
    assert version == 1
    return KEYS


def cycle_id(number: int) -> CycleId:
    return CycleId(UUID(int=0xC000 + number))


def a_cycle(number: int, epoch: int, disks: dict[DiskId, CycleDisk]) -> Cycle:
    """A cycle as it begins."""
    return Cycle(
        id=cycle_id(number), phase=Phase.RECEIVING, epoch=epoch, node=NODE, snapshot_name=f"dmcore-{number}",
        snapshot_identity=f"snapshot-{number}", resumable=True,
        source_time=datetime(2026, 1, 1, number // 60, number % 60, tzinfo=UTC), consistency=Consistency.CRASH,
        disks=disks,
    )  # fmt: skip


@dataclass
class DiskContent:
    """A protected disk as the source has it, and the parts of it that a cycle carries."""

    data: bytearray
    block: int = BLOCK

    def change(self, seed: int, blocks: int = 4) -> Extents:
        """Write random blocks, some of them zeros. Returns the extents that changed."""
        rng = np.random.default_rng(seed)
        grid = Grid(len(self.data), self.block)
        chosen = rng.choice(grid.blocks, size=min(blocks, grid.blocks), replace=False)
        for number, block in enumerate(sorted(int(b) for b in chosen)):
            length = grid.length(block)
            fresh = bytes(length) if number % 3 == 2 else rng.integers(0, 8, length, dtype=np.uint8).tobytes()
            self.data[block * self.block : block * self.block + length] = fresh
        return ex.from_pairs((int(b) * self.block, grid.length(int(b))) for b in chosen)


def content(seed: int, disk_bytes: int) -> DiskContent:
    """A disk whose second half is zeros."""
    rng = np.random.default_rng(seed)
    filled = rng.integers(0, 8, disk_bytes // 2, dtype=np.uint8).tobytes()
    return DiskContent(bytearray(filled + bytes(disk_bytes - len(filled))))


@dataclass
class GroupLab:
    root: Path
    storage: Storage = field(default_factory=Storage)
    target: Target | None = None
    epoch: int = 0
    limits: GroupLimits = LIMITS

    def open(self) -> GroupShadow:
        """Open the group as a connector's start does."""
        for name in ("state", "staging", "target"):
            (self.root / name).mkdir(exist_ok=True)
        if self.target is None:
            self.target = FolderTarget(self.root / "target", self.storage.io)
        places = GroupPlaces(self.root / "state", self.root / "staging", GROUP)
        kit = GroupKit(self.storage, places, self.target, known_keys, self.limits)
        if (places.folder / "state.json").exists():
            return GroupShadow.load(kit)
        return GroupShadow.create(kit, GroupState(plan=PLAN, group=GROUP, target="shadows"))

    def close(self) -> None:
        if self.target is not None:
            self.target.close()
            self.target = None

    def plan(self, shadow: GroupShadow, number: int, disks: dict[DiskId, DiskContent], **changes: object) -> Cycle:
        """A cycle of these disks under a new epoch: seeds where there is no image, else deltas."""
        self.epoch = shadow.state.epoch + 1
        planned = {disk: self.plan_disk(shadow, number, disk, held) for disk, held in disks.items()}
        cycle = a_cycle(number, self.epoch, planned)
        return cycle.model_copy(update=changes)

    @staticmethod
    def plan_disk(shadow: GroupShadow, number: int, disk: DiskId, held: DiskContent) -> CycleDisk:
        image = shadow.state.images.get(disk)
        rung, reason = (Rung.DELTA, Reason.TRACKED) if image else (Rung.SEED, Reason.NO_IMAGE)
        return CycleDisk(
            machine="vm", label=f"disk-{disk.int:x}", disk_bytes=len(held.data), block_bytes=held.block, rung=rung,
            reason=reason, base_image=shadow.state.image_of(disk), next_token=f"token-{number}", dek_version=1,
        )  # fmt: skip


class Sender:
    """What an appliance does to one disk: opens it, and sends what is not durable yet."""

    def __init__(self, shadow: GroupShadow, cycle: Cycle, disk: DiskId, held: DiskContent) -> None:
        self.receiver, self.attempt = shadow.open(cycle.id, cycle.epoch, disk)
        plan = cycle.disks[disk]
        header = StreamHeader(
            1, PLAN, disk, cycle.id, cycle.epoch, self.attempt, plan.disk_bytes, plan.block_bytes, plan.base_image
        )
        self.held, self.grid = held, Grid(plan.disk_bytes, plan.block_bytes)
        self.writer = StreamWriter(header, KEYS.dek, derive.digest_key(KEYS.digest_root, disk), Codec.LZ4)
        self.out = bytearray(worst_case_bytes(64, plan.block_bytes))

    def start(self) -> None:
        self.receiver.start(self.attempt, self.writer.header, WRAPPED)
        self.append(self.writer.open(self.out))

    def send(self, extents: Extents, batch_blocks: int = 3) -> None:
        """Batches of a few blocks, each synced: every sync is an ACK."""
        for blocks in self.batches(extents, batch_blocks):
            self.append(self.seal(blocks).used)
            self.receiver.sync(self.attempt)

    def batches(self, extents: Extents, batch_blocks: int) -> list[np.ndarray[tuple[int], np.dtype[np.int64]]]:
        pieces = ex.split(self.grid.align(extents), self.grid.block_bytes)
        blocks = pieces[:, 0] // self.grid.block_bytes
        return [np.ascontiguousarray(blocks[at : at + batch_blocks]) for at in range(0, len(blocks), batch_blocks)]

    def seal(self, blocks: np.ndarray[tuple[int], np.dtype[np.int64]]) -> SealedBatch:
        size = self.grid.block_bytes
        raw = b"".join(bytes(self.held.data[b * size : (b + 1) * size]) for b in blocks.tolist())
        return self.writer.seal(blocks, raw, self.out)

    def append(self, used: int) -> int:
        return self.receiver.append(self.attempt, bytes(self.out[:used]))

    def finish(self) -> None:
        self.append(self.writer.final(self.out))
        self.receiver.sync(self.attempt)


def send_disk(shadow: GroupShadow, cycle: Cycle, disk: DiskId, held: DiskContent, extents: Extents) -> None:
    """Send what is missing of a disk's coverage; a disk without any opens no stream."""
    receiver, _ = shadow.open(cycle.id, cycle.epoch, disk)
    missing = ex.subtract(Grid(len(held.data), held.block).align(extents), receiver.durable())
    if len(missing):
        sender = Sender(shadow, cycle, disk, held)
        sender.start()
        sender.send(missing)
        sender.finish()


def coverage_of(held: DiskContent, extents: Extents) -> bytes:
    return ex.coverage_hash(Grid(len(held.data), held.block).align(extents))


def run_cycle(shadow: GroupShadow, cycle: Cycle, changes: dict[DiskId, tuple[DiskContent, Extents]]) -> Phase | None:
    """One whole cycle. Returns the phase it ended in."""
    shadow.begin(cycle)
    for disk, (held, extents) in changes.items():
        send_disk(shadow, cycle, disk, held, extents)
    shadow.commit(cycle.id, cycle.epoch, {disk: coverage_of(*pair) for disk, pair in changes.items()})
    return roll_forward(shadow)


def roll_forward(shadow: GroupShadow, published: list[Point] | None = None) -> Phase | None:
    told: list[Point] = [] if published is None else published
    while shadow.advance(told.append) is not None:
        pass
    cycle = shadow.state.cycle
    return cycle.phase if cycle else None


def read_snapshot(target: Target, snapshot: str) -> bytes:
    image = target.open_snapshot(snapshot)
    try:
        held = bytearray(image.disk_bytes)
        image.read_into(0, held)
        return bytes(held)
    finally:
        image.close()


def recovered(lab: GroupLab, shadow: GroupShadow, point: PointId) -> dict[DiskId, bytes]:
    """What a point gives back."""
    assert lab.target is not None
    return {disk.disk: read_snapshot(lab.target, disk.snapshot) for disk in shadow.catalogue.get(point).disks}


def another(cycle: Cycle, **changes: object) -> Cycle:
    return cycle.model_copy(update={"id": CycleId(uuid4()), **changes})
