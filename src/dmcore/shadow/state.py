"""A group's state file: the only commit point. Replaced whole, atomically; *dirty* is derived from it."""

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from dmcore.model.enums import Consistency, Reason, Rung
from dmcore.model.ids import NO_IMAGE, CycleId, DiskId, GroupId, ImageId, NodeId, PlanId
from dmcore.model.phase import FINISHED, Phase, may_follow
from dmcore.shadow.errors import PhaseImpossible, StateUnreadable
from dmcore.shadow.storage import Storage

STATE_FILE = "state.json"
MAX_STATE_BYTES = 16 << 20


class StateModel(BaseModel):
    """Unknown keys mean another version wrote this: refuse, rather than lose them."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ShadowImage(StateModel):
    """What one disk's shadow holds."""

    image: ImageId
    token: str | None
    """The source's tracking token for this image: deltas are asked since it."""
    disk_bytes: int
    block_bytes: int
    dek_version: int
    machine: str
    label: str
    unknown_blocks: int = 0


class CycleDisk(StateModel):
    """One disk's part of a cycle, as `begin` planned it and as it was sealed."""

    machine: str
    label: str
    disk_bytes: int
    block_bytes: int
    rung: Rung
    reason: Reason
    base_image: ImageId
    next_token: str | None
    dek_version: int
    direct: bool = False
    """Redone while it is received; said here before the first write to its shadow."""
    expected_bytes: int = 0
    covered_bytes: int = 0
    log_bytes: int = 0
    """The log's length at SEALED, 0 before: below it, damage is corruption."""
    log_chain: int = 0


class Cycle(StateModel):
    """The open cycle, or the last one."""

    id: CycleId
    number: int = 0
    """Counts the cycles that a group has begun: what a later one has overwritten is told by it."""
    phase: Phase
    epoch: int
    successor: int = 0
    """Which one under its epoch: above 0 the appliance began it by itself."""
    node: NodeId
    """The appliance that presented the epoch: nobody else goes on under it."""
    snapshot_name: str
    snapshot_identity: str
    resumable: bool
    source_time: datetime
    consistency: Consistency
    disks: dict[DiskId, CycleDisk]
    abandoned: bool = False
    """An operator has given up what of its logs cannot be read."""
    problem: str = ""

    @property
    def direct_disks(self) -> list[DiskId]:
        """The disks whose shadows were written before SEALED."""
        return [disk for disk, plan in self.disks.items() if plan.direct]

    def with_direct(self, disks: Iterable[DiskId]) -> "Cycle":
        """This cycle, these disks of it direct."""
        now = {disk: self.disks[disk].model_copy(update={"direct": True}) for disk in disks}
        return self.model_copy(update={"disks": {**self.disks, **now}})


class GroupState(StateModel):
    """All that is durable about a group beside its logs, maps, points and volumes."""

    version: Literal[1] = 1
    plan: PlanId
    group: GroupId
    target: str
    """The target's alias in this connector's settings."""
    epoch: int = 0
    successor: int = 0
    """The highest that was begun under the newest epoch: a lower one never comes back."""
    node: NodeId = NodeId("")
    """The appliance that presented the newest epoch."""
    cycles: int = 0
    """How many were begun: the newest one's number."""
    images: dict[DiskId, ShadowImage] = Field(default_factory=dict)
    cycle: Cycle | None = None

    @property
    def open_cycle(self) -> Cycle | None:
        """The cycle that has not ended, if there is one."""
        return self.cycle if self.cycle and self.cycle.phase not in FINISHED else None

    @property
    def receiving(self) -> Cycle | None:
        """The cycle that is received, if there is one."""
        return self.cycle if self.cycle and self.cycle.phase is Phase.RECEIVING else None

    @property
    def dirty(self) -> bool:
        """Whether shadows may be half patched: never snapshotted, exported or attached then."""
        return self.cycle is not None and (
            self.cycle.phase in {Phase.SEALED, Phase.DROPPING} or bool(self.direct_disks)
        )

    @property
    def direct_disks(self) -> list[DiskId]:
        """The disks whose shadows are written while the cycle is received."""
        return self.receiving.direct_disks if self.receiving is not None else []

    def image_of(self, disk: DiskId) -> ImageId:
        """What a disk's shadow holds; NO_IMAGE if it has none."""
        return self.images[disk].image if disk in self.images else NO_IMAGE

    def at(self, phase: Phase, **changes: object) -> "GroupState":
        """This state with its cycle in the next phase, and with other fields of the cycle changed.

        Raises:
            PhaseImpossible: it may not follow. A fault of dmcore, never written to disk.
        """
        if self.cycle is None or not may_follow(self.cycle.phase, phase):
            before = self.cycle.phase if self.cycle else "no cycle"
            raise PhaseImpossible(group=str(self.group), before=before, after=phase)
        return self.model_copy(update={"cycle": self.cycle.model_copy(update={"phase": phase, **changes})})

    def with_images(self, images: dict[DiskId, ShadowImage]) -> "GroupState":
        """This state with other images."""
        return self.model_copy(update={"images": images})

    def with_cycle(self, **changes: object) -> "GroupState":
        """This state with other fields of its cycle, in the same phase."""
        return self.model_copy(update={"cycle": self.cycle.model_copy(update=changes) if self.cycle else None})

    def under(self, lease: "Cycle | GroupState") -> "GroupState":
        """This state under another's epoch, which its open cycle then is under too."""
        moved = {"epoch": lease.epoch, "successor": lease.successor, "node": lease.node}
        cycle = self.cycle.model_copy(update=moved) if self.cycle and self.open_cycle else self.cycle
        return self.model_copy(update={**moved, "cycle": cycle})


def load_state(storage: Storage, folder: Path) -> GroupState:
    """Read a group's state.

    Raises:
        StateUnreadable: it is missing, damaged, or of another version.
    """
    path = folder / STATE_FILE
    try:
        return GroupState.model_validate_json(storage.read_file(path, MAX_STATE_BYTES))
    except (OSError, ValidationError) as error:
        raise StateUnreadable(path=str(path), problem=what_is_wrong(error)) from error


def save_state(storage: Storage, folder: Path, state: GroupState) -> None:
    """Replace a group's state. When this returns, it is so; if it raises, either may be."""
    storage.replace(folder / STATE_FILE, state.model_dump_json(indent=1).encode())


def what_is_wrong(error: Exception) -> str:
    """The problem of a file that could not be read or is not of the model, for its error's message."""
    return (
        "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()[:3])
        if isinstance(error, ValidationError)
        else str(error)
    )
