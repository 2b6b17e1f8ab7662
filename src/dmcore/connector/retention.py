"""Which points stay whoever asks for their removal. A pure decision: the connector's own settings and clock."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from dmcore.model.ids import PointId
from dmcore.node.settings import RetentionSettings
from dmcore.shadow.points import Point, PointFlags


class Why(StrEnum):
    """Why a point is kept."""

    LOCKED = "it is locked"
    PRESERVED = "it is preserved"
    LAST_GOOD = "it is the last good point of its group"
    NEWEST = "it is among the newest of its group (retention.keep_newest)"
    YOUNG = "it is too young (retention.keep_s)"


@dataclass(frozen=True)
class Held:
    """A point as the catalogue has it."""

    point: Point
    flags: PointFlags
    made_at: datetime
    """When it came into the catalogue: the time that a source claims can be wrong."""


def why_kept(point: PointId, group: Sequence[Held], settings: RetentionSettings, now: datetime) -> Why | None:
    """Why this one of a group's points stays; None if it may go. `group` is in the order of the source's time."""
    place = next(number for number, held in enumerate(group) if held.point.id == point)
    held = group[place]
    newer_good = sum(newer.flags.good for newer in group[place + 1 :])
    rules = {
        Why.LOCKED: held.flags.locked,
        Why.PRESERVED: held.flags.preserved,
        Why.LAST_GOOD: held.flags.good and not newer_good,
        Why.NEWEST: newer_good < settings.keep_newest,
        Why.YOUNG: now - held.made_at < timedelta(seconds=settings.keep_s),
    }
    return next((why for why, applies in rules.items() if applies), None)
