"""Rolling a cycle forward: redo, snapshot, publish. Each takes the state and gives the next one to save."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TypeVar

from dmcore.blocks import extents as ex
from dmcore.blocks.grid import Grid
from dmcore.errors import IntegrityError, TargetError
from dmcore.model.ids import DiskId, image_of, point_id
from dmcore.model.phase import Phase
from dmcore.model.points import PointState
from dmcore.shadow.checkpoint import Checkpoint, load_checkpoint, reclaim, save_checkpoint
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import StateUnreadable
from dmcore.shadow.growing import fit
from dmcore.shadow.keeping import keeping
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.points import Catalogue, Point, PointDisk
from dmcore.shadow.redo import LogRest, Progress, Redo, SaveCheckpoint
from dmcore.shadow.segments import LogReader
from dmcore.shadow.state import Cycle, CycleDisk, GroupState, ShadowImage

Publisher = Callable[[Point], None]
"""Tells whoever keeps an index of points. Returns only when they have it; may be told of a point again."""
Done = TypeVar("Done")


@dataclass(frozen=True)
class Redone:
    """What came of one disk's log."""

    image: ShadowImage | None
    """What its shadow holds now; None: nothing that anybody knows."""
    failed_frames: int = 0
    lost: bool = False
    """It could not be read, and an operator has given it up."""


def apply(kit: GroupKit, state: GroupState, cycle: Cycle, progress: Progress) -> GroupState:
    """Redo every disk's log. Images and tokens of all disks move together, in the state this returns.

    APPLIED, or FAILED if a block is unknown: then there is no point, and the next cycle must cover it.
    """
    redone = on_disks(kit, cycle.disks, lambda disk: _redo_sealed(kit, state, cycle, disk, progress))
    problem = _problem(cycle, redone)
    images = {disk: each.image for disk, each in redone.items() if each.image is not None}
    after = state.at(Phase.FAILED if problem else Phase.APPLIED, problem=problem)
    return after.with_images({**state.images, **images})


def snapshot(kit: GroupKit, state: GroupState, cycle: Cycle, catalogue: Catalogue) -> GroupState:
    """Snapshot every disk's shadow and write the point, durably, before SNAPSHOTTED.

    FAILED if the target refuses one for good: the images stay as they are, there is no point and no snapshot.
    """
    made: list[PointDisk] = []
    try:
        for disk in cycle.disks:
            made.append(_snapshot_disk(kit, cycle, disk))  # noqa: PERF401 - those before a refusal must be known
    except TargetError as refused:
        if not refused.permanent:
            raise
        for each in made:
            kit.target.delete_snapshot(each.snapshot)
        return state.at(Phase.FAILED, problem=f"no snapshot could be made: {refused}")
    catalogue.add(_point(state, cycle, made))
    return state.at(Phase.SNAPSHOTTED)


def publish(state: GroupState, cycle: Cycle, catalogue: Catalogue, publisher: Publisher) -> GroupState:
    """Tell the point to whoever keeps an index."""
    publisher(catalogue.get(point_id(cycle.id, state.group)))
    return state.at(Phase.PUBLISHED)


def checkpointed_bytes(kit: GroupKit, cycle: Cycle) -> int:
    """How much of its logs a cycle need not redo."""
    return sum(_checkpointed(kit, cycle, disk) for disk in cycle.disks)


# What drain, apply and drop share


def on_disks(kit: GroupKit, disks: Iterable[DiskId], work: Callable[[DiskId], Done]) -> dict[DiskId, Done]:
    """Do something for each of these disks, some at a time. Raises the first error, when none is running any more."""
    with ThreadPoolExecutor(kit.limits.redo_threads, thread_name_prefix="redo") as pool:
        running = {disk: pool.submit(work, disk) for disk in disks}
    return {disk: done.result() for disk, done in running.items()}


@contextmanager
def redo_of(kit: GroupKit, cycle: Cycle, disk: DiskId) -> Iterator[Redo]:
    """A disk's redo, over its shadow and map."""
    plan = cycle.disks[disk]
    fit(kit, disk, plan)
    with (
        closing(kit.target.open(kit.places.volume(disk))) as volume,
        closing(_map(kit, disk, plan)) as digest_map,
        keeping(kit, cycle, disk, digest_map) as keep_old,
    ):
        yield Redo(volume, digest_map, kit.keys, keep_old)


def rest_of(kit: GroupKit, cycle: Cycle, disk: DiskId) -> LogRest:
    """A disk's log from its checkpoint on. Raises StateUnreadable."""
    folder = kit.places.log(cycle.id, disk)
    start = load_checkpoint(kit.storage, folder)
    return LogRest(folder, LogReader(kit.storage, folder, start), start)


def saver_of(kit: GroupKit, cycle: Cycle, disk: DiskId) -> SaveCheckpoint:
    """Of a log that nobody writes to any more. What a direct disk has behind its checkpoint makes room at once."""
    folder = kit.places.log(cycle.id, disk)

    def save(checkpoint: Checkpoint) -> None:
        save_checkpoint(kit.storage, folder, checkpoint)
        if cycle.disks[disk].direct:
            reclaim(kit.storage, folder, checkpoint, kit.room.give_back)

    return save


def unknown_blocks(kit: GroupKit, disk: DiskId, plan: CycleDisk) -> int:
    """How many a disk's map has. It is read whole."""
    with closing(_map(kit, disk, plan)) as digest_map:
        return len(digest_map.unknown())


# One disk of an apply


def _redo_sealed(kit: GroupKit, state: GroupState, cycle: Cycle, disk: DiskId, progress: Progress) -> Redone:
    plan, before = cycle.disks[disk], state.images.get(disk)
    failed = 0
    if plan.log_bytes:
        with redo_of(kit, cycle, disk) as redo:
            try:
                rest = rest_of(kit, cycle, disk)
                redo.run(rest, plan.log_bytes, saver_of(kit, cycle, disk), progress)
                rest.log.check_sealed(plan.log_bytes, plan.log_chain)
            except IntegrityError:
                if not cycle.abandoned:
                    raise
                return Redone(lose(kit, cycle, disk, redo, before), lost=True)
            failed = redo.failed_frames
    # The whole map is read only where there can be unknown blocks: a cycle's cost follows what changed.
    looked_at = failed or (before is not None and before.unknown_blocks)
    unknown = unknown_blocks(kit, disk, plan) if looked_at else 0
    return Redone(image_after(cycle, disk, plan.next_token, unknown), failed)


def lose(kit: GroupKit, cycle: Cycle, disk: DiskId, redo: Redo, before: ShadowImage | None) -> ShadowImage | None:
    """Give up a disk whose log cannot be read: no block of it is known, so that its next cycle carries all of them.

    None if there was no image: the next cycle is a seed, which makes the shadow anew.
    """
    if before is None:
        return None
    plan = cycle.disks[disk]
    redo.mark_unknown(ex.whole(plan.disk_bytes))
    return image_after(cycle, disk, None, unknown_blocks(kit, disk, plan))


def image_after(cycle: Cycle, disk: DiskId, token: str | None, unknown: int) -> ShadowImage:
    """The image that a cycle makes of a disk."""
    plan = cycle.disks[disk]
    return ShadowImage(
        image=image_of(cycle.id), token=token, disk_bytes=plan.disk_bytes, block_bytes=plan.block_bytes,
        dek_version=plan.dek_version, machine=plan.machine, label=plan.label, unknown_blocks=unknown,
    )  # fmt: skip


def _checkpointed(kit: GroupKit, cycle: Cycle, disk: DiskId) -> int:
    try:
        held = load_checkpoint(kit.storage, kit.places.log(cycle.id, disk))
    except StateUnreadable:  # whoever redoes it says so
        return 0
    return held.position if held is not None else 0


def _problem(cycle: Cycle, redone: dict[DiskId, Redone]) -> str:
    """Why there is no point; empty if there is one."""
    failed = sum(each.failed_frames for each in redone.values())
    unknown = sum(each.image.unknown_blocks for each in redone.values() if each.image is not None)
    frames = [f"{failed} frames did not open; {unknown} blocks are unknown"] if failed or unknown else []
    lost = [cycle.disks[disk].label for disk, each in redone.items() if each.lost]
    return "; ".join(frames + [f"the staging log of {label} was damaged and is given up" for label in lost])


# The point


def _point(state: GroupState, cycle: Cycle, disks: list[PointDisk]) -> Point:
    return Point(
        id=point_id(cycle.id, state.group), plan=state.plan, group=state.group, cycle=cycle.id,
        number=cycle.number, source_time=cycle.source_time, consistency=cycle.consistency, target=state.target,
        disks=disks,
        lacking=[image.label for disk, image in state.images.items() if disk not in cycle.disks],
        state=PointState.AVAILABLE,
    )  # fmt: skip


def _snapshot_disk(kit: GroupKit, cycle: Cycle, disk: DiskId) -> PointDisk:
    plan = cycle.disks[disk]
    return PointDisk(
        disk=disk, machine=plan.machine, label=plan.label, disk_bytes=plan.disk_bytes, block_bytes=plan.block_bytes,
        snapshot=kit.target.snapshot(kit.places.volume(disk), str(cycle.id)), snapshot_kind=kit.target.caps.snapshots,
        rung=plan.rung, reason=plan.reason, covered_bytes=plan.covered_bytes,
    )  # fmt: skip


def _map(kit: GroupKit, disk: DiskId, plan: CycleDisk) -> DigestMap:
    return DigestMap(kit.storage, kit.places.digest_map(disk), Grid(plan.disk_bytes, plan.block_bytes))
