"""Which refusals are audited."""

from datetime import timedelta
from uuid import UUID

import pytest

from dmcore.control.access import refusals
from dmcore.control.access.refusals import AUDITED, PERIOD, Refusals
from tests.control.queue_kit import NOW

ONE, OTHER, THIRD = (UUID(int=number) for number in range(3))


def audited(counted: Refusals, token: UUID = ONE, times: int = 2 * AUDITED, **later: float) -> int:
    return sum(counted.is_audited(token, "POST", NOW + timedelta(**later)) for _ in range(times))


def test_the_first_of_each_hour() -> None:
    counted = Refusals()
    assert [audited(counted, seconds=at) for at in (0, 3599, 3600, 3601)] == [AUDITED, 0, AUDITED, 0]


def test_each_token_has_its_own() -> None:
    counted = Refusals()
    assert [audited(counted, token) for token in (ONE, OTHER)] == [AUDITED, AUDITED]


def test_a_clock_that_was_set_back_silences_nobody() -> None:
    counted = Refusals()
    audited(counted)
    assert audited(counted, seconds=-PERIOD.total_seconds()) == AUDITED


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_looking_is_none(method: str) -> None:
    assert not Refusals().is_audited(ONE, method, NOW)


def test_only_so_many_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refusals, "MAX_TOKENS", 2)
    counted = Refusals()
    for token in (ONE, OTHER, ONE, THIRD):  # the one that was silent longest is forgotten
        audited(counted, token)
    assert [audited(counted, token, times=1) for token in (ONE, THIRD, OTHER)] == [0, 0, 1]
