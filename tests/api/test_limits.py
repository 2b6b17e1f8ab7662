"""Which rate holds when: a weekly schedule in a zone of its own, past midnight, across changes of the clock."""

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from dmcore.api.limits import MAX_WINDOWS, NO_LIMIT, WEEK, Limit, Weekday, Window

RATE, SLOW, SLOWER = 10_000_000, 2_000_000, 1_000_000
WEEKDAYS, WEEKEND = WEEK[:5], WEEK[5:]
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "America/St_Johns"]
BERLIN = ZoneInfo("Europe/Berlin")

times = st.times().map(lambda at: at.replace(microsecond=0, tzinfo=None))
rates = st.none() | st.integers(1 << 10, (1 << 44) - 1)
days = st.lists(st.sampled_from(WEEK), min_size=1, max_size=7, unique=True).map(tuple)
windows = st.builds(Window, days=days, start=times, end=times, bytes_s=rates)
limits = st.builds(Limit, bytes_s=rates, windows=st.lists(windows, max_size=4).map(tuple), zone=st.sampled_from(ZONES))
moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - Hypothesis adds it


def office(**changes: object) -> Window:
    return Window.model_validate({"days": WEEKDAYS, "start": "08:00", "end": "18:00", "bytes_s": SLOW, **changes})


def oracle(window: Window, local: datetime) -> bool:
    """Minute by minute: every day's window laid out as an interval, past midnight into the next day."""
    for back in (0, 1):
        day = (local - timedelta(days=back)).date()
        if WEEK[day.weekday()] not in window.days:
            continue
        begin = datetime.combine(day, window.start)
        end = datetime.combine(day, window.end) + timedelta(days=window.end <= window.start)
        if begin <= local.replace(tzinfo=None) < end:
            return True
    return False


@given(limit=limits, now=moments)
def test_the_first_window_that_fits_holds_else_the_plain_rate(limit: Limit, now: datetime) -> None:
    local = now.astimezone(ZoneInfo(limit.zone))
    fitting = [window.bytes_s for window in limit.windows if oracle(window, local)]
    assert limit.rate_at(now) == (fitting[0] if fitting else limit.bytes_s)


@given(limit=limits)
def test_it_crosses_json_unchanged(limit: Limit) -> None:
    assert Limit.model_validate_json(limit.model_dump_json()) == limit


@given(limit=limits, now=moments, zone=st.sampled_from(ZONES))
def test_the_asker_s_own_zone_is_of_no_account(limit: Limit, now: datetime, zone: str) -> None:
    assert limit.rate_at(now) == limit.rate_at(now.astimezone(ZoneInfo(zone)))


@pytest.mark.parametrize(
    ("at", "rate"),
    [
        ("2026-03-02T07:59:59", RATE),
        ("2026-03-02T08:00:00", SLOW),
        ("2026-03-06T17:59:59", SLOW),
        ("2026-03-06T18:00:00", RATE),
        ("2026-03-07T12:00:00", RATE),
    ],
    ids=["before", "first-second", "last-second", "after", "weekend"],
)
def test_office_hours(at: str, rate: int) -> None:
    limit = Limit(bytes_s=RATE, windows=(office(),))
    assert limit.rate_at(datetime.fromisoformat(at).replace(tzinfo=UTC)) == rate


@pytest.mark.parametrize(
    ("at", "inside"),
    [
        ("2026-03-06T21:59", False),
        ("2026-03-06T22:00", True),
        ("2026-03-07T05:59", True),
        ("2026-03-07T06:00", False),
        ("2026-03-07T23:00", False),
        ("2026-03-06T03:00", False),
    ],
    ids=["evening", "begins", "next-morning", "ends", "another-night", "morning-of-the-day-itself"],
)
def test_past_midnight_belongs_to_the_day_on_which_it_began(at: str, inside: bool) -> None:
    night = office(days=(Weekday.FRI,), start="22:00", end="06:00")
    assert night.holds(datetime.fromisoformat(at)) is inside


def test_sunday_night_goes_on_into_monday() -> None:
    night = office(days=(Weekday.SUN,), start="22:00", end="06:00")
    assert night.holds(datetime(2026, 3, 9, 1, tzinfo=UTC))


def test_from_midnight_to_midnight_is_the_whole_day() -> None:
    day = office(days=(Weekday.SAT,), start="00:00", end="00:00")
    assert [day.holds(datetime(2026, 3, 7, hour, tzinfo=UTC)) for hour in (0, 12, 23)] == [True] * 3
    assert not day.holds(datetime(2026, 3, 8, tzinfo=UTC))


def test_a_window_without_a_limit() -> None:
    limit = Limit(bytes_s=SLOW, windows=(office(days=WEEKEND, start="00:00", end="00:00", bytes_s=None),))
    assert limit.rate_at(datetime(2026, 3, 7, 12, tzinfo=UTC)) is None
    assert limit.rate_at(datetime(2026, 3, 9, 12, tzinfo=UTC)) == SLOW


def test_the_first_of_two_that_fit() -> None:
    limit = Limit(windows=(office(bytes_s=SLOWER), office()))
    assert limit.rate_at(datetime(2026, 3, 2, 9, tzinfo=UTC)) == SLOWER


def test_office_hours_follow_the_zone_through_summer_time() -> None:
    """Nine o'clock in Berlin is another hour of UTC in summer."""
    limit = Limit(bytes_s=RATE, windows=(office(start="09:00", end="17:00"),), zone="Europe/Berlin")
    for month, first in ((1, 8), (7, 7)):
        midnight = datetime(2026, month, 6, tzinfo=UTC)
        held = [hour for hour in range(24) if limit.rate_at(midnight + timedelta(hours=hour)) == SLOW]
        assert held == list(range(first, first + 8))


def test_an_hour_that_is_skipped_and_one_that_comes_twice() -> None:
    limit = Limit(windows=(Window(days=WEEK, start=time(2), end=time(3), bytes_s=SLOW),), zone="Europe/Berlin")

    def minutes(day: datetime) -> int:
        return sum(limit.rate_at(day + timedelta(minutes=each)) == SLOW for each in range(24 * 60))

    assert minutes(datetime(2026, 3, 28, 12, tzinfo=BERLIN).astimezone(UTC)) == 0
    assert minutes(datetime(2026, 10, 24, 12, tzinfo=BERLIN).astimezone(UTC)) == 120
    assert minutes(datetime(2026, 6, 1, 12, tzinfo=BERLIN).astimezone(UTC)) == 60


def test_no_limit() -> None:
    assert NO_LIMIT.rate_at(datetime(2026, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"bytes_s": 0}, "bytes_s"),
        ({"bytes_s": 1023}, "bytes_s"),
        ({"bytes_s": 1 << 44}, "bytes_s"),
        ({"bytes_s": True}, "bytes_s"),
        ({"bytes_s": "100MB"}, "bytes_s"),
        ({"zone": "Mars/Olympus"}, "time zone"),
        ({"zone": "../../etc/passwd"}, "zone"),
        ({"zone": "Europe"}, "time zone"),
        ({"zone": ""}, "zone"),
        ({"windows": [office().model_dump(mode="json")] * (MAX_WINDOWS + 1)}, "windows"),
        ({"windows": [{**office().model_dump(mode="json"), "days": []}]}, "days"),
        ({"windows": [{**office().model_dump(mode="json"), "days": ["someday"]}]}, "days"),
        ({"windows": [{**office().model_dump(mode="json"), "start": "25:00"}]}, "start"),
        ({"windows": [{**office().model_dump(mode="json"), "start": "08:00+02:00"}]}, "zone of their own"),
        ({"windows": [{**office().model_dump(mode="json"), "comment": "x"}]}, "comment"),
        ({"rate": 5000}, "rate"),
    ],
)
def test_what_is_no_limit_is_refused(change: dict[str, object], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        Limit.model_validate(change)
