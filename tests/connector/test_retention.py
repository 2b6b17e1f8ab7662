"""Which points stay, whoever asks."""

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.connector.retention import Held, Why, why_kept, young_until
from dmcore.model.points import PointState
from dmcore.node.settings import RetentionSettings
from tests.connector.points import START, a_point, disk, held

SETTINGS = RetentionSettings(keep_newest=2, keep_s=86_400)
OLD = START + timedelta(days=30)
BAD = {"state": PointState.DEGRADED}


def why(number: int, *group: Held, **changes: object) -> Why | None:
    return why_kept(a_point(number).id, group, SETTINGS.model_copy(update=changes), OLD)


def test_an_old_one_among_many_may_go() -> None:
    group = [held(number, number) for number in range(5)]
    assert [why(number, *group) for number in range(5)] == [None, None, None, Why.NEWEST, Why.LAST_GOOD]


@pytest.mark.parametrize(("flag", "reason"), [("preserved", Why.PRESERVED), ("locked", Why.LOCKED)])
def test_flags_keep_it(flag: str, reason: Why) -> None:
    group = [held(0, 0, **{flag: True}), *(held(number, number) for number in range(1, 5))]
    assert why(0, *group) is reason


@pytest.mark.parametrize(("age", "expected"), [(86_399, Why.YOUNG), (86_400, None)])
def test_a_young_one_stays(age: int, expected: Why | None) -> None:
    group = [held(number, number) for number in range(5)]
    group[0] = Held(group[0].point, group[0].flags, OLD - timedelta(seconds=age))
    assert why(0, *group) is expected


@pytest.mark.parametrize(("age", "left"), [(0, 86_400), (86_399, 1), (86_400, None), (-3600, 90_000)])
def test_how_long_a_young_one_stays_is_known(age: int, left: int | None) -> None:
    """A clock that went back makes it longer."""
    young = Held(a_point(0), held(0).flags, OLD - timedelta(seconds=age))
    assert young_until(young, SETTINGS, OLD) == (left and OLD + timedelta(seconds=left))


def test_a_rule_of_ten_thousand_years_is_told_of_as_one() -> None:
    forever = SETTINGS.model_copy(update={"keep_s": 10_000 * 366 * 86_400})
    assert young_until(held(0), forever, START) == START + timedelta(days=366)


def test_age_is_counted_here_whatever_the_source_says() -> None:
    """A source whose clock is ten years behind must not make its points go at once."""
    point = a_point(0).model_copy(update={"source_time": START - timedelta(days=3650)})
    group = [Held(point, held(0).flags, OLD), *(held(number, number) for number in range(1, 5))]
    assert why(0, *group) is Why.YOUNG


def test_a_clock_that_went_back_lets_nothing_go() -> None:
    group = [held(number, number) for number in range(5)]
    assert why_kept(group[0].point.id, group, SETTINGS, START - timedelta(days=1)) is Why.YOUNG


def test_the_last_good_one_stays_however_many_bad_ones_are_newer() -> None:
    group = [held(0, 0), held(1, 1), *(held(number, number, **BAD) for number in range(2, 9))]
    assert why(1, *group) is Why.LAST_GOOD
    assert why(0, *group) is Why.NEWEST
    assert why(0, *group, keep_newest=1) is None


@pytest.mark.parametrize("flags", [BAD, {"expiring": True}], ids=["degraded", "expiring"])
def test_what_is_no_good_one_does_not_count(flags: dict[str, object]) -> None:
    group = [held(0, 0), held(1, 1), held(2, 2, **flags), held(3, 3)]
    assert why(1, *group) is Why.NEWEST
    assert why(2, *group) is Why.NEWEST


def test_cycles_of_some_machines_do_not_stand_for_the_others() -> None:
    """A control plane that has the other machines of a group replicated, and then asks for what is old."""
    group = [held(number, number) for number in range(3)]
    for number in range(3, 9):
        partial = held(number, number)
        group.append(Held(partial.point.model_copy(update={"disks": [disk(1)]}), partial.flags, partial.made_at))
    reasons = [why(number, *group) for number in range(9)]
    assert reasons == [None, Why.NEWEST, Why.LAST_GOOD, None, None, None, None, Why.NEWEST, Why.LAST_GOOD]


def test_the_only_one() -> None:
    assert why(0, held(0)) is Why.LAST_GOOD
    assert why(0, held(0, 0, **BAD)) is Why.NEWEST


flags_of_one = st.fixed_dictionaries(
    {"state": st.sampled_from([PointState.AVAILABLE, PointState.DEGRADED]), "preserved": st.booleans()}
)


@given(st.lists(flags_of_one, min_size=1, max_size=12), st.integers(1, 4), st.randoms())
def test_whatever_is_asked_in_whatever_order_the_last_good_ones_are_left(
    flags: list[dict[str, object]], keep_newest: int, chance: object
) -> None:
    """A control plane that asks for all of them, again and again."""
    group = [held(number, number, **each) for number, each in enumerate(flags)]
    good_before = [each.point.id for each in group if each.flags.good]
    preserved = {each.point.id for each in group if each.flags.preserved}
    order = [each.point.id for each in group] * 2
    chance.shuffle(order)  # type: ignore[attr-defined]  # a Random
    settings = RetentionSettings(keep_newest=keep_newest, keep_s=86_400)
    for asked in order:
        if asked in {each.point.id for each in group} and why_kept(asked, group, settings, OLD) is None:
            group = [each for each in group if each.point.id != asked]
    left = {each.point.id for each in group}
    assert set(good_before[-keep_newest:]) <= left
    assert preserved <= left
