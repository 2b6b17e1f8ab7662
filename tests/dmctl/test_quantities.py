from collections.abc import Callable
from datetime import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.api.limits import WEEK, Limit, Window
from dmcore.api.plans import DEFAULT_TIERS, Tier
from dmctl.quantities import (
    duration_text,
    limit_text,
    parse_duration,
    parse_limit,
    parse_rate,
    parse_tiers,
    parse_window,
    rate_text,
    tiers_text,
    window_text,
)

RATES = st.none() | st.integers(1 << 10, (1 << 44) - 1)
TIMES = st.builds(time, st.integers(0, 23), st.integers(0, 59), st.sampled_from([0, 0, 0, 30]))
DAYS = st.sets(st.sampled_from(WEEK), min_size=1).map(lambda days: tuple(day for day in WEEK if day in days))
WINDOWS = st.builds(Window, days=DAYS, start=TIMES, end=TIMES, bytes_s=RATES)


@st.composite
def tiers(draw: st.DrawFn) -> Tier:
    for_s = draw(st.integers(60, 3660 * 86_400))
    return Tier(every_s=draw(st.integers(1, min(for_s, 366 * 86_400))), for_s=for_s)


@given(st.integers(0, 10**9))
def test_a_duration_is_read_as_it_is_written(seconds: int) -> None:
    assert parse_duration(duration_text(seconds)) == seconds


@given(RATES)
def test_a_rate_is_read_as_it_is_written(bytes_s: int | None) -> None:
    assert parse_rate(rate_text(bytes_s)) == bytes_s
    assert parse_limit(rate_text(bytes_s)) == Limit(bytes_s=bytes_s)


@given(st.lists(tiers(), min_size=1, max_size=8).map(tuple))
def test_tiers_are_read_as_they_are_written(kept: tuple[Tier, ...]) -> None:
    assert parse_tiers(tiers_text(kept)) == kept


@given(WINDOWS)
def test_a_window_is_read_as_it_is_written(window: Window) -> None:
    assert parse_window(window_text(window)) == window


@given(st.text(max_size=20) | st.text("0123456789smhd:,-/kMGiBt ", max_size=30))
@pytest.mark.parametrize("parse", [parse_duration, parse_rate, parse_limit, parse_tiers, parse_window])
def test_any_text_is_a_quantity_or_plainly_refused(parse: Callable[[str], object], text: str) -> None:
    problem = None
    try:
        parse(text)
    except ValueError as refused:  # a pydantic one would speak of models
        problem = refused
    assert type(problem) in {type(None), ValueError}


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("5m", 300), ("1h", 3600), ("7d", 604_800), (" 5m ", 300), ("0s", 0)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(("seconds", "text"), [(90, "90s"), (300, "5m"), (5400, "90m"), (86_400, "1d"), (0, "0s")])
def test_a_duration_is_written_in_the_largest_unit_that_is_exact(seconds: int, text: str) -> None:
    assert duration_text(seconds) == text


@pytest.mark.parametrize("text", ["", "5", "m", "5 m", "1.5h", "-5m", "5M", "5min", "1h30m", "1" * 11 + "s", "\u0665m"])
def test_no_durations(text: str) -> None:
    with pytest.raises(ValueError, match="give a whole number with s, m, h or d"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("text", "bytes_s"),
    [
        ("100MB/s", 100_000_000), ("2Gbit/s", 250_000_000), ("1.5 MB/s", 1_500_000), ("512KiB/s", 524_288),
        ("8192bit/s", 1024), ("none", None), ("None", None),
    ],
)  # fmt: skip
def test_rates(text: str, bytes_s: int | None) -> None:
    assert parse_rate(text) == bytes_s


@pytest.mark.parametrize("text", ["", "100", "100MB", "100mb/s", "100Mb/s", "-1MB/s", "1e9B/s", "MB/s", "0x10B/s"])
def test_no_rates(text: str) -> None:
    with pytest.raises(ValueError, match=r"give a number with one of B/s, kB/s, MB/s, .* or none"):
        parse_rate(text)


def test_a_rate_that_no_limit_may_have() -> None:
    with pytest.raises(ValueError, match=r"rate '1B/s': bytes_s: Input should be greater than or equal to 1024"):
        parse_limit("1B/s")


def test_the_default_tiers_as_the_help_has_them() -> None:
    assert tiers_text(DEFAULT_TIERS) == "10m:1h,1h:1d,1d:7d"


@pytest.mark.parametrize(
    ("text", "problem"),
    [("10m", "is not a tier; give EVERY:FOR"), ("10m:1h,", "'' is not a tier"), ("1h:10m", "must last at least that"),
     ("x:1h", "'x' is not a duration"), ("1s:1s", "tier '1s:1s': for_s: Input should be greater")],
)  # fmt: skip
def test_no_tiers(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_tiers(text)


@pytest.mark.parametrize(
    ("text", "days"),
    [("mon-fri", WEEK[:5]), ("sat,sun", WEEK[5:]), ("sat-mon", (WEEK[0], *WEEK[5:])), ("MON", WEEK[:1]),
     ("mon-sun", WEEK), ("sun-sat", WEEK), ("mon,wed-thu,mon", (WEEK[0], WEEK[2], WEEK[3]))],
)  # fmt: skip
def test_days(text: str, days: tuple[str, ...]) -> None:
    assert parse_window(f"{text} 08:00-18:00 20MB/s").days == days


def test_the_days_end_is_the_next_ones_beginning() -> None:
    window = parse_window("mon 20:00-24:00 none")
    assert (window.start, window.end, window.bytes_s) == (time(20), time(0), None)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not a window; give 'DAYS FROM-TO RATE'"),
        ("mon 08:00-18:00", "is not a window"),
        ("mon 08:00 20MB/s", "is not a window"),
        ("monday 08:00-18:00 20MB/s", "'monday' is no day; give mon, tue"),
        ("mon 08:00-18:00 fast", "'fast' is not a rate"),
        ("mon- 08:00-18:00 20MB/s", "'mon-' is no day"),
        ("mon,, 08:00-18:00 20MB/s", "'' is no day"),
        ("mon 8:00-18:00 20MB/s", "'8:00' is not a time of day; give HH:MM"),
        ("mon 08:00-24:01 20MB/s", "'24:01' is not a time of day"),
        ("mon 08:60-18:00 20MB/s", "'08:60' is not a time of day"),
        ("mon 08:00-18:00 1B/s", "window 'mon 08:00-18:00 1B/s': bytes_s: Input should be"),
    ],
)
def test_no_windows(text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        parse_window(text)


def test_a_limit_on_one_line() -> None:
    windows = (parse_window("mon-fri 08:00-18:00 20MB/s"), parse_window("sat,sun 00:00-24:00 none"))
    assert limit_text(Limit(bytes_s=10**8, windows=windows, zone="Europe/Paris")) == (
        "100MB/s; mon-fri 08:00-18:00 20MB/s; sat-sun 00:00-00:00 none; Europe/Paris"
    )
    assert limit_text(Limit()) == "none"
