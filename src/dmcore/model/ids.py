"""Who is who. Ids are UUIDs made by one side only; a node's id is the hash of its public key."""

import re
from typing import NewType
from uuid import UUID, uuid5

PlanId = NewType("PlanId", UUID)
GroupId = NewType("GroupId", UUID)
CycleId = NewType("CycleId", UUID)
DiskId = NewType("DiskId", UUID)
PointId = NewType("PointId", UUID)
ImageId = NewType("ImageId", UUID)
"""What a shadow holds after a cycle, named by that cycle's id."""
NodeId = NewType("NodeId", str)
"""SHA-256 of the node's public key (SubjectPublicKeyInfo, DER), lower-case hex."""

NO_IMAGE = ImageId(UUID(int=0))


def disk_id(plan: PlanId, machine_identity: str, disk_identity: str) -> DiskId:
    """The id of a source's disk under a plan; made by the appliance, stable as long as the source's identities are."""
    return DiskId(uuid5(plan, f"{machine_identity}\n{disk_identity}"))


def point_id(cycle: CycleId, group: GroupId) -> PointId:
    """The id of the recovery point that a cycle of a group makes: the same for every attempt."""
    return PointId(uuid5(cycle, str(group)))


def successor_cycle(cycle: CycleId, number: int) -> CycleId:
    """The cycle that an appliance begins by itself under the lease of `cycle`, while there is no control plane.

    Number 0 is the cycle itself. Both ends of a connection compute it, so that none can name another's cycle.
    """
    return CycleId(uuid5(cycle, f"successor {number}")) if number else cycle


def image_of(cycle: CycleId) -> ImageId:
    """The image that a cycle leaves in the shadows it patched."""
    return ImageId(cycle)


def source_snapshot_name(group: GroupId, cycle: CycleId) -> str:
    """The name of a cycle's source snapshot, known before the snapshot is made."""
    return f"dmcore-{group}-{cycle}"


def parse_snapshot_name(name: str) -> tuple[GroupId, CycleId] | None:
    """Whose source snapshot this is; None: not one of ours, whatever it begins with."""
    parts = re.fullmatch(r"dmcore-(.{36})-(.{36})", name)
    try:
        group, cycle = (UUID(part) for part in (parts.groups() if parts else ("", "")))
    except ValueError:
        return None
    known = GroupId(group), CycleId(cycle)
    return known if source_snapshot_name(*known) == name else None
