"""A clock that has jumped ahead is not believed."""

from datetime import timedelta
from pathlib import Path

import pytest

from dmcore.connector.clock_guard import CLOCK_FILE, ClockGuard, running_s
from dmcore.connector.errors import ClockJumped
from dmcore.host.errors import FileBroken
from tests.trust_kit import FakeClock


class Times:
    """Both clocks of a machine."""

    def __init__(self) -> None:
        self.wall, self.running = FakeClock(), 1000.0

    def run(self, **by: float) -> None:
        self.wall.advance(**by)
        self.running += timedelta(**by).total_seconds()

    def guard(self, state_dir: Path) -> ClockGuard:
        return ClockGuard(state_dir, self.wall, lambda: self.running)


@pytest.fixture
def times() -> Times:
    return Times()


def test_a_first_start_believes_its_clock(times: Times, tmp_path: Path) -> None:
    assert times.guard(tmp_path).now() == times.wall.now


def test_time_that_passes_is_believed(times: Times, tmp_path: Path) -> None:
    guard = times.guard(tmp_path)
    for hours in (1, 23, 100, 1000):
        guard.now()
        times.run(hours=hours)
        assert guard.now() == times.wall.now


def test_a_jump_ahead_is_not(times: Times, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    guard = times.guard(tmp_path)
    guard.now()
    times.wall.advance(hours=25)
    for _ in range(2):
        with pytest.raises(ClockJumped, match=f"nothing expires.*remove {tmp_path / CLOCK_FILE}") as jumped:
            guard.now()
    assert jumped.value.code == "clock.jumped"
    times.run(days=30)  # no waiting makes it right
    with pytest.raises(ClockJumped):
        guard.now()
    guard.look()
    assert "nothing expires" in capsys.readouterr().out


def test_a_jump_over_a_restart_is_not(times: Times, tmp_path: Path) -> None:
    times.guard(tmp_path).now()
    times.wall.advance(hours=25)
    with pytest.raises(ClockJumped):
        times.guard(tmp_path).now()


def test_a_small_step_is_believed(times: Times, tmp_path: Path) -> None:
    guard = times.guard(tmp_path)
    guard.now()
    times.wall.advance(hours=23)
    assert guard.now() == times.wall.now
    times.wall.advance(hours=23)
    assert times.guard(tmp_path).now() == times.wall.now


def test_an_operator_who_has_looked_lets_it_go_on(times: Times, tmp_path: Path) -> None:
    guard = times.guard(tmp_path)
    guard.now()
    times.wall.advance(days=400)
    guard.look()
    (tmp_path / CLOCK_FILE).unlink()
    assert guard.now() == times.wall.now
    times.run(hours=1)
    assert guard.now() == times.wall.now


def test_a_clock_that_goes_back_leaves_the_mark(times: Times, tmp_path: Path) -> None:
    times.guard(tmp_path).now()
    mark = (tmp_path / CLOCK_FILE).read_text()
    times.wall.advance(days=-2)
    assert times.guard(tmp_path).now() == times.wall.now
    assert (tmp_path / CLOCK_FILE).read_text() == mark


@pytest.mark.parametrize("text", ["yesterday", "2026-05-01T12:00:00"])
def test_a_damaged_mark_is_no_leave_to_expire(times: Times, tmp_path: Path, text: str) -> None:
    (tmp_path / CLOCK_FILE).write_text(text)
    with pytest.raises(FileBroken, match=CLOCK_FILE):
        times.guard(tmp_path).now()
    times.guard(tmp_path).look()


def test_the_machines_own_time_runs() -> None:
    assert 0 < running_s() <= running_s()
