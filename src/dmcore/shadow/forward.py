"""Rolling a sealed cycle forward: redo, snapshot, publish. Each takes the state and gives the next one to save."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

from dmcore.blocks.grid import Grid
from dmcore.model.ids import DiskId, image_of, point_id
from dmcore.model.phase import Phase
from dmcore.model.points import PointState
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.points import Catalogue, Point, PointDisk
from dmcore.shadow.redo import Progress, Redo, RedoResult
from dmcore.shadow.segments import LogReader
from dmcore.shadow.state import Cycle, CycleDisk, GroupState, ShadowImage

Publisher = Callable[[Point], None]
"""Tells whoever keeps an index of points. Returns only when they have it; may be told of a point again."""


def apply(kit: GroupKit, state: GroupState, cycle: Cycle, progress: Progress) -> GroupState:
    """Redo every disk's log. Images and tokens of all disks move together, in the state this returns.

    APPLIED, or FAILED if a block is unknown: then there is no point, and the next cycle must cover it.
    """
    with ThreadPoolExecutor(kit.limits.redo_threads, thread_name_prefix="redo") as pool:
        work = {disk: pool.submit(_redo, kit, cycle, disk, progress) for disk in cycle.disks}
    results = {disk: done.result() for disk, done in work.items()}
    images = {disk: _new_image(kit, state, cycle, disk, results[disk]) for disk in cycle.disks}
    failed = sum(result.failed_frames for result in results.values())
    unknown = sum(image.unknown_blocks for image in images.values())
    problem = f"{failed} frames did not open; {unknown} blocks are unknown" if failed or unknown else ""
    return state.at(Phase.FAILED if problem else Phase.APPLIED, problem=problem).with_images({**state.images, **images})


def snapshot(kit: GroupKit, state: GroupState, cycle: Cycle, catalogue: Catalogue) -> GroupState:
    """Snapshot every disk's shadow and write the point, durably, before SNAPSHOTTED."""
    disks = [_snapshot_disk(kit, cycle, disk) for disk in cycle.disks]
    point = Point(
        id=point_id(cycle.id, state.group), plan=state.plan, group=state.group, cycle=cycle.id,
        source_time=cycle.source_time, consistency=cycle.consistency, target=state.target, disks=disks,
        lacking=[image.label for disk, image in state.images.items() if disk not in cycle.disks],
        state=PointState.AVAILABLE,
    )  # fmt: skip
    catalogue.add(point)
    return state.at(Phase.SNAPSHOTTED)


def publish(state: GroupState, cycle: Cycle, catalogue: Catalogue, publisher: Publisher) -> GroupState:
    """Tell the point to whoever keeps an index."""
    publisher(catalogue.get(point_id(cycle.id, state.group)))
    return state.at(Phase.PUBLISHED)


def _redo(kit: GroupKit, cycle: Cycle, disk: DiskId, progress: Progress) -> RedoResult:
    plan = cycle.disks[disk]
    if not plan.log_bytes:
        return RedoResult()
    with closing(kit.target.open(kit.places.volume(disk))) as volume, closing(_map(kit, disk, plan)) as digest_map:
        log = LogReader(kit.places.log(cycle.id, disk))
        return Redo(volume, digest_map, kit.keys).run(log, plan.log_bytes, plan.log_chain, progress)


def _new_image(kit: GroupKit, state: GroupState, cycle: Cycle, disk: DiskId, redone: RedoResult) -> ShadowImage:
    plan, before = cycle.disks[disk], state.images.get(disk)
    unknown = 0
    # The whole map is read only where there can be unknown blocks: a cycle's cost follows what changed.
    if redone.failed_frames or (before is not None and before.unknown_blocks):
        with closing(_map(kit, disk, plan)) as digest_map:
            unknown = len(digest_map.unknown())
    return ShadowImage(
        image=image_of(cycle.id), token=plan.next_token, disk_bytes=plan.disk_bytes, block_bytes=plan.block_bytes,
        dek_version=plan.dek_version, machine=plan.machine, label=plan.label, unknown_blocks=unknown,
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
