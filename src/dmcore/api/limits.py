"""How fast a plan or a site may send, by the hour of the week. Evaluated where it is kept: at the appliance."""

from datetime import datetime, time
from enum import StrEnum
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from dmcore.api.base import Message

MAX_WINDOWS = 32
MIN_RATE_BYTES_S = 1 << 10


class Weekday(StrEnum):
    """In the order of `datetime.weekday`."""

    MON = "mon"
    TUE = "tue"
    WED = "wed"
    THU = "thu"
    FRI = "fri"
    SAT = "sat"
    SUN = "sun"


WEEK = tuple(Weekday)


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as unknown:
        raise ValueError("not a time zone of the IANA database") from unknown
    return name


Rate = Annotated[int, Field(strict=True, ge=MIN_RATE_BYTES_S, lt=1 << 44)]
"""Bytes a second on the wire: sealed, with TLS."""
Zone = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]{0,63}$"), AfterValidator(_known_zone)]


class Window(Message):
    """From `start` to `end` of each of these days; past midnight where `end` is not after `start`."""

    days: Annotated[tuple[Weekday, ...], Field(min_length=1, max_length=7)]
    start: time
    end: time
    bytes_s: Rate | None
    """None: as fast as it goes."""

    @model_validator(mode="after")
    def _plain(self) -> Self:
        if self.start.tzinfo or self.end.tzinfo:
            raise ValueError("times of a window have no zone of their own")
        return self

    def holds(self, local: datetime) -> bool:
        """Whether a local time is inside."""
        at, today, yesterday = local.time(), WEEK[local.weekday()], WEEK[local.weekday() - 1]
        if self.start < self.end:
            return today in self.days and self.start <= at < self.end
        return (today in self.days and at >= self.start) or (yesterday in self.days and at < self.end)


class Limit(Message):
    """A rate, and the windows in which another one holds: the first that fits."""

    bytes_s: Rate | None = None
    windows: Annotated[tuple[Window, ...], Field(max_length=MAX_WINDOWS)] = ()
    zone: Zone = "UTC"

    def rate_at(self, now: datetime) -> int | None:
        """Bytes a second at this time; None: no limit."""
        local = now.astimezone(ZoneInfo(self.zone))
        fitting = (window.bytes_s for window in self.windows if window.holds(local))
        return next(fitting, self.bytes_s)


NO_LIMIT = Limit()
