"""What a node tells of itself with every poll."""

from dataclasses import dataclass

from dmcore.model.ids import GroupId


@dataclass(frozen=True)
class Offer:
    """What it could do now. `busy` groups are those that it has a cycle of, whoever asked for it."""

    slots: int = 1
    """How many more jobs it would take; 0: it only says that it lives."""
    sources: tuple[str, ...] = ()
    targets: tuple[str, ...] = ()
    recoveries: tuple[str, ...] = ()
    busy: tuple[GroupId, ...] = ()
