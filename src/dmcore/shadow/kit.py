"""What a group's shadows are made of: given once, by whoever opens the group."""

from dataclasses import dataclass, field
from functools import cached_property

from dmcore.shadow.places import GroupPlaces
from dmcore.shadow.receiver import KeyLookup
from dmcore.shadow.staging import StagingRoom
from dmcore.shadow.storage import Storage
from dmcore.targets.base import Target


@dataclass(frozen=True)
class GroupLimits:
    """What this connector allows one group."""

    reserve_bytes: int = 256 << 20
    """Of a room of its own: left free on the staging file system, as state files and other groups must still fit."""
    quota_bytes: int | None = None
    """Of a room of its own: what may be staged; None: only the reserve bounds it."""
    redo_threads: int = 2


@dataclass(frozen=True)
class GroupKit:
    """The files, the target and the keys of one group."""

    storage: Storage
    places: GroupPlaces
    target: Target
    keys: KeyLookup
    limits: GroupLimits = field(default_factory=GroupLimits)
    shared_room: StagingRoom | None = None
    """The room that all groups stage in; None: one of its own, within `limits`."""

    @cached_property
    def room(self) -> StagingRoom:
        """Where this group's logs find room."""
        limits = self.limits
        return self.shared_room or StagingRoom.open(
            self.storage, self.places.staging, limits.reserve_bytes, limits.quota_bytes
        )
