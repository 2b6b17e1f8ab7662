"""Durations, rates, tiers and windows, as operators write them and as they are shown again."""

import re
from collections.abc import Iterable, Sequence
from datetime import time
from fractions import Fraction

from pydantic import ValidationError

from dmcore.api.limits import WEEK, Limit, Weekday, Window
from dmcore.api.plans import Tier, Verify

DURATIONS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
RATES = {
    "B/s": Fraction(1), "kB/s": Fraction(10**3), "MB/s": Fraction(10**6), "GB/s": Fraction(10**9),
    "KiB/s": Fraction(1 << 10), "MiB/s": Fraction(1 << 20), "GiB/s": Fraction(1 << 30),
    "bit/s": Fraction(1, 8), "kbit/s": Fraction(10**3, 8), "Mbit/s": Fraction(10**6, 8), "Gbit/s": Fraction(10**9, 8),
}  # fmt: skip
NO_RATE = "none"

DURATION_HELP = "a whole number with s, m, h or d: 90s, 5m, 1h, 7d"
RATE_HELP = f"a number with one of {', '.join(RATES)}, or {NO_RATE}: 100MB/s, 2Gbit/s"
TIERS_HELP = "EVERY:FOR pairs of durations: 10m:1h,1h:1d,1d:7d keeps one every 10 minutes for an hour, and so on"
WINDOW_HELP = "'DAYS FROM-TO RATE': 'mon-fri 08:00-18:00 20MB/s', 'sat,sun 22:00-06:00 none'"

SHARE_HELP = f"a share of each day: 1%/day, 0.5%/day; or {NO_RATE}"

_SHARE = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?) ?%(/day)?")
_DURATION = re.compile(r"([0-9]{1,10})([smhd])")
_RATE = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]+/s)")
_TIME = re.compile(r"([0-9]{2}):([0-9]{2})(?::([0-9]{2}))?")


def parse_duration(text: str) -> int:
    """Seconds. Raises ValueError."""
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is not a duration; give {DURATION_HELP}")
    return int(match[1]) * DURATIONS[match[2]]


def duration_text(seconds: int) -> str:
    """Exact, in the largest unit that is: what `parse_duration` reads."""
    unit = max((unit for unit, size in DURATIONS.items() if seconds and seconds % size == 0), key=DURATIONS.__getitem__,
               default="s")  # fmt: skip
    return f"{seconds // DURATIONS[unit]}{unit}"


def parse_rate(text: str) -> int | None:
    """Bytes a second, rounded down; None for `none`. Raises ValueError."""
    if text.strip().lower() == NO_RATE:
        return None
    match = _RATE.fullmatch(text.strip())
    if not match or match[2] not in RATES:
        raise ValueError(f"{text!r} is not a rate; give {RATE_HELP}")
    return int(Fraction(match[1]) * RATES[match[2]])


def parse_limit(text: str) -> Limit:
    """A limit that holds all week. Raises ValueError."""
    try:
        return Limit(bytes_s=parse_rate(text))
    except ValidationError as refused:
        raise ValueError(f"rate {text!r}: {_first(refused)}") from None


def rate_text(bytes_s: int | None) -> str:
    """Exact, in the largest decimal unit that is: what `parse_rate` reads."""
    if bytes_s is None:
        return NO_RATE
    unit = next(unit for unit in ("GB/s", "MB/s", "kB/s", "B/s") if bytes_s % RATES[unit] == 0)
    return f"{bytes_s // int(RATES[unit])}{unit}"


def parse_percent(text: str) -> float:
    """Of `5%`: more than 0, at most 100. Raises ValueError."""
    match = _SHARE.fullmatch(text.strip())
    if not match or match[2] or not 0 < float(match[1]) <= 100:
        raise ValueError(f"{text!r} is not a share; give a number above 0 and up to 100 with a %: 5%")
    return float(match[1])


def parse_share(text: str) -> Verify:
    """How much is verified each day. Raises ValueError."""
    if text.strip().lower() == NO_RATE:
        return Verify()
    match = _SHARE.fullmatch(text.strip())
    if not match or not match[2] or float(match[1]) > 100:
        raise ValueError(f"{text!r} is not a daily share; give {SHARE_HELP}")
    return Verify(percent_per_day=float(match[1]))


def share_text(verify: Verify) -> str:
    """What `parse_share` reads."""
    return f"{verify.percent_per_day:.6f}".rstrip("0").rstrip(".") + "%/day" if verify.percent_per_day else NO_RATE


def parse_tiers(text: str) -> tuple[Tier, ...]:
    """A plan's retention. Raises ValueError."""
    return tuple(_tier(part) for part in text.split(","))


def _tier(text: str) -> Tier:
    every, colon, kept = text.partition(":")
    if not colon:
        raise ValueError(f"{text!r} is not a tier; give {TIERS_HELP}")
    try:
        return Tier(every_s=parse_duration(every), for_s=parse_duration(kept))
    except ValidationError as refused:
        raise ValueError(f"tier {text!r}: {_first(refused)}") from None


def tiers_text(tiers: Iterable[Tier]) -> str:
    """What `parse_tiers` reads."""
    return ",".join(f"{duration_text(tier.every_s)}:{duration_text(tier.for_s)}" for tier in tiers)


def parse_window(text: str) -> Window:
    """When another rate holds. Raises ValueError."""
    words = text.split(maxsplit=2)
    if len(words) != 3 or words[1].count("-") != 1:
        raise ValueError(f"{text!r} is not a window; give {WINDOW_HELP}")
    start, end = (_time(part) for part in words[1].split("-"))
    try:
        return Window(days=_days(words[0]), start=start, end=end, bytes_s=parse_rate(words[2]))
    except ValidationError as refused:
        raise ValueError(f"window {text!r}: {_first(refused)}") from None


def window_text(window: Window) -> str:
    """What `parse_window` reads."""
    start, end = (at.isoformat("seconds").removesuffix(":00") for at in (window.start, window.end))
    return f"{_days_text(window.days)} {start}-{end} {rate_text(window.bytes_s)}"


def limit_text(limit: Limit) -> str:
    """A limit on one line, for people."""
    windows = [window_text(window) for window in limit.windows]
    zone = [limit.zone] if windows else []
    return "; ".join([rate_text(limit.bytes_s), *windows, *zone])


def _time(text: str) -> time:
    match = _TIME.fullmatch(text)
    hours, minutes, seconds = (int(part or 0) for part in match.groups()) if match else (99, 0, 0)
    if (hours, minutes, seconds) == (24, 0, 0):  # the day's end is the next one's beginning
        hours = 0
    if hours > 23 or minutes > 59 or seconds > 59:
        raise ValueError(f"{text!r} is not a time of day; give HH:MM, 00:00 to 24:00")
    return time(hours, minutes, seconds)


def _days(text: str) -> tuple[Weekday, ...]:
    found: set[Weekday] = set()
    for part in text.lower().split(","):
        first, dash, last = part.partition("-")
        last = last if dash else first
        if first not in WEEK or last not in WEEK:
            raise ValueError(f"{part!r} is no day; give {', '.join(WEEK)}, or some as mon-fri or sat,sun")
        start, end = WEEK.index(Weekday(first)), WEEK.index(Weekday(last))
        found |= {WEEK[number % 7] for number in range(start, end + 1 if end >= start else end + 8)}
    return tuple(day for day in WEEK if day in found)


def _days_text(days: Sequence[Weekday]) -> str:
    """Runs of days with a dash."""
    runs: list[list[int]] = []
    for number in sorted({WEEK.index(day) for day in days}):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(WEEK[run[0]] if len(run) == 1 else f"{WEEK[run[0]]}-{WEEK[run[-1]]}" for run in runs)


def _first(refused: ValidationError) -> str:
    first = refused.errors(include_url=False, include_context=False)[0]
    place = ".".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
