"""Which points stay whoever asks for their removal. A pure decision: the connector's own settings and clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dmcore.model.ids import DiskId, PointId
from dmcore.node.settings import RetentionSettings
from dmcore.shadow.points import Point, PointFlags

LONGEST = timedelta(days=366)
"""No end is told that is further away: somebody asks again by then."""


class Why(StrEnum):
    """Why a point is kept."""

    LOCKED = "it is locked"
    PRESERVED = "it is preserved"
    LAST_GOOD = "it is the last good point of one of its disks"
    NEWEST = "it is among the newest of one of its disks (retention.keep_newest)"
    YOUNG = "it is too young (retention.keep_s)"


@dataclass(frozen=True)
class Held:
    """A point as the catalogue has it."""

    point: Point
    flags: PointFlags
    made_at: datetime
    """When it came into the catalogue: the time that a source claims can be wrong."""


def why_kept(point: PointId, group: Sequence[Held], settings: RetentionSettings, now: datetime) -> Why | None:
    """Why this one of a group's points stays; None if it may go. `group` is in the order of the source's time.

    A newer point stands for this one only as far as it has the same disks: else cycles of some machines of a group
    would let the last points of the others go.
    """
    place = next(number for number, held in enumerate(group) if held.point.id == point)
    held = group[place]
    newer_good = min(_newer_good(group[place + 1 :], disk.disk) for disk in held.point.disks)
    rules = {
        Why.LOCKED: held.flags.locked,
        Why.PRESERVED: held.flags.preserved,
        Why.LAST_GOOD: held.flags.good and not newer_good,
        Why.NEWEST: newer_good < settings.keep_newest,
        Why.YOUNG: now - held.made_at < timedelta(seconds=settings.keep_s),
    }
    return next((why for why, applies in rules.items() if applies), None)


def young_until(held: Held, settings: RetentionSettings, now: datetime) -> datetime | None:
    """Until when its age alone keeps a point; None: that is over. What else may keep it has no end that is known."""
    left = timedelta(seconds=settings.keep_s) - (now - held.made_at)
    return now + min(left, LONGEST) if left > timedelta(0) else None


def _newer_good(newer: Sequence[Held], disk: DiskId) -> int:
    return sum(each.flags.good and any(known.disk == disk for known in each.point.disks) for each in newer)
