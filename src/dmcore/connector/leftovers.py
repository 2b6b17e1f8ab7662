"""What a crash, or an operator, has left at a connector beside its groups: found by names, judged by their states.

Removed is what nothing can come of: staged cycles of groups that are not here, and target snapshots that no point
holds and no cycle is about to. Reported, and never removed, is whatever may be somebody's only copy: shadows and
snapshots of no group that is here. A name that is not of ids is not ours.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any
from uuid import UUID

import structlog

from dmcore.connector.groups import Groups
from dmcore.errors import DmcoreError
from dmcore.model.ids import CycleId, DiskId, GroupId
from dmcore.node.settings import ConnectorSettings
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.storage import Storage

log = structlog.get_logger()


class Kind(StrEnum):
    """What was found. The first two may be removed."""

    STAGING = "staged blocks of a group that is not here"
    SNAPSHOT = "a target snapshot that no point holds"
    ORPHAN_SNAPSHOT = "a target snapshot of no group that is here"
    ORPHAN_SHADOW = "a shadow of no group that is here"


@dataclass(frozen=True)
class Leftover:
    """One of them. `where` is a target's alias, or the staging folder."""

    kind: Kind
    where: str
    name: str

    @property
    def removable(self) -> bool:
        """Whether it may go."""
        return self.kind in {Kind.STAGING, Kind.SNAPSHOT}

    def told(self, *, removed: bool) -> dict[str, Any]:
        """For an operator."""
        return {**asdict(self), "removable": self.removable, "removed": removed}


@dataclass(frozen=True)
class Held:
    """What a group needs on its target."""

    cycle: CycleId | None
    """The open one: it may be about to make snapshots."""
    snapshots: frozenset[str]
    """Its points'."""
    damaged: bool
    """A point cannot be read, so that not all of them are known."""

    @classmethod
    def of(cls, shadow: GroupShadow) -> "Held":
        """The state is read before the points: a cycle that ends in between has its point by then."""
        opened = shadow.state.open_cycle
        points = shadow.catalogue.all()
        damaged = bool(shadow.catalogue.unreadable())
        return cls(
            opened.id if opened else None, frozenset(disk.snapshot for each in points for disk in each.disks), damaged
        )

    def needs(self, cycle: CycleId, snapshot: str) -> bool:
        """Whether it may need a snapshot."""
        return self.damaged or cycle == self.cycle or snapshot in self.snapshots


class Leftovers:
    """One connector's. Looking and removing may go on while cycles run."""

    def __init__(self, groups: Groups, settings: ConnectorSettings, storage: Storage) -> None:
        self._groups, self._storage = groups, storage
        self._staging, self._aliases = settings.staging_dir, tuple(settings.targets)

    def look(self) -> list[Leftover]:
        """All of them. What cannot be looked at is logged, and left out."""
        found: list[Leftover] = []
        for where, look in self._places():
            try:
                found += look()
            except (DmcoreError, OSError) as error:
                log.warning("not looked through for leftovers", where=where, problem=str(error))
        return found

    def remove(self, leftover: Leftover) -> bool:
        """Remove one that may go, if it is still to be found: whose it was may have begun meanwhile."""
        return leftover.removable and leftover in self.look() and self._remove(leftover)

    def sweep(self) -> None:
        """Remove what may go, and tell of the rest. Before anything is served."""
        for each in self.look():
            if not each.removable:
                log.warning("leftover is left where it is", kind=each.kind, where=each.where, name=each.name)
            else:
                self._remove(each)

    def _remove(self, leftover: Leftover) -> bool:
        ids = {"kind": leftover.kind, "where": leftover.where, "name": leftover.name}
        try:
            if leftover.kind is Kind.STAGING:
                self._groups.room.remove(self._staging / leftover.name)
            else:
                self._groups.target(leftover.where).delete_snapshot(leftover.name)
        except (DmcoreError, OSError) as error:
            log.error("leftover stays", **ids, problem=str(error))
            return False
        log.info("leftover is removed", **ids)
        return True

    def _places(self) -> Iterator[tuple[str, Callable[[], list[Leftover]]]]:
        yield str(self._staging), self._in_staging
        for alias in self._aliases:
            yield alias, lambda alias=alias: list(self._on_target(alias))  # type: ignore[misc]  # bound now

    def _in_staging(self) -> list[Leftover]:
        """Without any group of its own this may be another connector's staging, or the wrong state directory."""
        names = self._storage.names(self._staging) if self._storage.exists(self._staging) else []
        here = {shadow.state.group for shadow in self._groups.all()} | self._groups.broken.keys()
        strange = [name for name in names if (group := _id(name)) is not None and GroupId(group) not in here]
        return [Leftover(Kind.STAGING, str(self._staging), name) for name in strange if here]

    def _on_target(self, alias: str) -> Iterator[Leftover]:
        target = self._groups.target(alias)
        snapshots, volumes = target.snapshots(), target.volumes()  # first: what is made from now on is not seen
        owners = self._owners(alias)
        held = {id(shadow): Held.of(shadow) for shadow in owners.values()}
        certain = not self._groups.broken and not any(each.damaged for each in held.values())
        for name in snapshots:
            disk, cycle = map(_id, name.partition("@")[::2])
            if disk is None or cycle is None:
                continue
            owner = owners.get(DiskId(disk))
            if owner is None and certain:
                yield Leftover(Kind.ORPHAN_SNAPSHOT, alias, name)
            elif owner is not None and not held[id(owner)].needs(CycleId(cycle), name):
                yield Leftover(Kind.SNAPSHOT, alias, name)
        strange = [name for name in volumes if (disk := _id(name)) and DiskId(disk) not in owners]
        yield from (Leftover(Kind.ORPHAN_SHADOW, alias, name) for name in strange if certain)

    def _owners(self, alias: str) -> dict[DiskId, GroupShadow]:
        """Of every disk that is, was or is about to be on a target."""
        owners: dict[DiskId, GroupShadow] = {}
        for shadow in self._groups.all():
            state = shadow.state
            if state.target == alias:
                points = [disk.disk for point in shadow.catalogue.all() for disk in point.disks]
                owners |= dict.fromkeys([*state.images, *(state.cycle.disks if state.cycle else ()), *points], shadow)
        return owners


def _id(name: str) -> UUID | None:
    """None: not an id as we write them."""
    try:
        found = UUID(name)
    except ValueError:
        return None
    return found if str(found) == name else None
