from itertools import product

import pytest

from dmcore.model.points import GOOD, TRANSITIONS, PointState, may_follow

# Written out, not derived.
LEGAL = {
    (PointState.CREATING, PointState.AVAILABLE),
    (PointState.CREATING, PointState.FAILED),
    (PointState.AVAILABLE, PointState.DEGRADED),
    (PointState.DEGRADED, PointState.AVAILABLE),
    (PointState.AVAILABLE, PointState.EXPIRED),
    (PointState.DEGRADED, PointState.EXPIRED),
    (PointState.FAILED, PointState.EXPIRED),
}


@pytest.mark.parametrize(("before", "after"), list(product(PointState, PointState)), ids=lambda state: state.value)
def test_every_pair_is_decided(before: PointState, after: PointState) -> None:
    assert may_follow(before, after) is ((before, after) in LEGAL)


def test_every_state_has_a_row() -> None:
    assert set(TRANSITIONS) == set(PointState)


def test_every_state_but_the_first_can_be_reached() -> None:
    assert {after for _, after in LEGAL} == set(PointState) - {PointState.CREATING}


def test_an_expired_point_does_not_come_back() -> None:
    assert not any(may_follow(PointState.EXPIRED, state) for state in PointState)


def test_only_an_available_point_is_good() -> None:
    assert GOOD is PointState.AVAILABLE
