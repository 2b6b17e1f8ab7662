"""From a job and a source snapshot to what `begin` is told: each disk, its rung, its tokens."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import ValidationError

from dmcore.api.jobs import Job
from dmcore.appliance.errors import GroupUnfit, MachineUnfit, MachineUnknown
from dmcore.appliance.progress import DiskStats
from dmcore.appliance.rungs import RungChoice, choose, choose_against_source
from dmcore.blocks import extents as ex
from dmcore.blocks.grid import Grid
from dmcore.model.enums import Rung
from dmcore.model.ids import NO_IMAGE, DiskId, ImageId, disk_id
from dmcore.sources.base import MachineInfo, SnapshotDisk, Source, SourceSnapshot
from dmcore.wire.messages import BeginRequest, DiskPlan, DiskState, StateReply


@dataclass(frozen=True)
class DiskWork:
    """One disk of a cycle."""

    id: DiskId
    machine: str
    """The machine's identity."""
    disk: SnapshotDisk
    grid: Grid
    choice: RungChoice
    held: DiskState | None

    @property
    def base_image(self) -> ImageId:
        """What the shadow holds now."""
        return self.held.image if self.held else NO_IMAGE

    @property
    def unknown_blocks(self) -> int:
        """How many blocks of the shadow must be sent whatever has changed."""
        return self.held.unknown_blocks if self.held else 0

    def plan(self) -> DiskPlan:
        """What `begin` says of it."""
        info = self.disk.info
        return DiskPlan(
            disk=self.id, machine=self.machine, label=info.label, disk_bytes=info.disk_bytes,
            block_bytes=self.grid.block_bytes, rung=self.choice.rung, reason=self.choice.reason,
            base_image=self.base_image, next_token=self.disk.next_token,
            expected_bytes=self.expected_bytes(),
        )  # fmt: skip

    def expected_bytes(self) -> int:
        """What will be staged at most, if nothing compresses; 0 for a compare, which cannot tell."""
        if self.choice.rung is Rung.COMPARE:
            return 0
        read = self.choice.extents
        if self.choice.rung is Rung.SEED:
            read = self.grid.align(self.disk.allocated())
        return ex.total_bytes(read)

    def stats(self) -> DiskStats:
        """Where its counters begin."""
        info, choice = self.disk.info, self.choice
        stats = DiskStats(self.id, self.machine, info.label, info.disk_bytes, choice.rung, choice.reason)
        stats.untracked_bytes = None if choice.tracked is None else 0
        return stats


def machines_of(source: Source, job: Job) -> list[MachineInfo]:
    """The job's machines by their labels.

    Raises:
        MachineUnknown, MachineUnfit: one is not there, or cannot be protected.
    """
    known = {machine.label: machine for machine in source.machines()}
    for label in job.machines:
        if label not in known:
            raise MachineUnknown(source=job.source, machine=label, known=", ".join(sorted(known)) or "none")
        if known[label].problem:
            raise MachineUnfit(source=job.source, machine=label, problem=known[label].problem)
    return [known[label] for label in dict.fromkeys(job.machines)]


def plan_disks(job: Job, snapshot: SourceSnapshot, state: StateReply, block_bytes: int) -> list[DiskWork]:
    """Every disk of the snapshot, on the cheapest rung that is safe. A shadow keeps the block size it was made with."""
    held = {disk.disk: disk for disk in state.disks}
    return [_plan_disk(job, key, disk, held, block_bytes) for key, disk in snapshot.disks.items()]


def _plan_disk(
    job: Job, key: tuple[str, str], disk: SnapshotDisk, held: Mapping[DiskId, DiskState], block_bytes: int
) -> DiskWork:
    machine, identity = key
    id_ = disk_id(job.plan, machine, identity)
    if id_ in held and held[id_].disk_bytes > disk.info.disk_bytes:  # a shrunk disk is a new disk
        id_ = disk_id(job.plan, machine, f"{identity}\nshrunk to {disk.info.disk_bytes}")
    known = held.get(id_)
    grid = Grid(disk.info.disk_bytes, known.block_bytes if known else block_bytes)
    if job.against_source:
        return DiskWork(id_, machine, disk, grid, choose_against_source(disk, known, grid), known)
    return DiskWork(id_, machine, disk, grid, choose(disk, known, grid, job.resync), known)


def begin_request(job: Job, snapshot: SourceSnapshot, work: list[DiskWork], *, resumable: bool) -> BeginRequest:
    """The `begin` of an attempt.

    Raises:
        GroupUnfit: the source's names, sizes or tokens are not such as the wire takes.
    """
    try:
        return BeginRequest(
            ticket=job.ticket, plan=job.plan, group=job.group, cycle=job.cycle, epoch=job.epoch,
            successor=job.successor, source=job.source, target=job.target, snapshot_name=snapshot.name,
            snapshot_identity=snapshot.identity, resumable=resumable, source_time=snapshot.taken_at,
            consistency=snapshot.consistency, disks=tuple(disk.plan() for disk in work),
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        problem = f"{where} {first['input']!r:.200}: {first['msg']}"
        raise GroupUnfit(source=job.source, machines=", ".join(job.machines), problem=problem) from None
