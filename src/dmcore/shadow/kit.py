"""What a group's shadows are made of: given once, by whoever opens the group."""

from dataclasses import dataclass, field

from dmcore.shadow.places import GroupPlaces
from dmcore.shadow.receiver import KeyLookup
from dmcore.shadow.storage import Storage
from dmcore.targets.base import Target


@dataclass(frozen=True)
class GroupLimits:
    """What this connector allows one group."""

    reserve_bytes: int = 256 << 20
    """Left free on the staging file system: state files and other groups must still fit."""
    quota_bytes: int | None = None
    """What all groups together may stage; None: only the reserve bounds it."""
    redo_threads: int = 2


@dataclass(frozen=True)
class GroupKit:
    """The files, the target and the keys of one group."""

    storage: Storage
    places: GroupPlaces
    target: Target
    keys: KeyLookup
    limits: GroupLimits = field(default_factory=GroupLimits)
