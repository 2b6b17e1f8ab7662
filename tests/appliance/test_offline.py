"""When a group is run without a control plane, and as what."""

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmcore.api.base import Problem
from dmcore.api.jobs import JobResult, Outcome
from dmcore.api.limits import NO_LIMIT
from dmcore.api.nodes import AssignedGroup
from dmcore.appliance import offline
from dmcore.appliance.offline import GroupRecord, Moments
from dmcore.model.enums import Rung
from dmcore.model.ids import CycleId, PointId, source_snapshot_name, successor_cycle
from tests.node.control_kit import new_job

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RPO_S = 600
GRACE_S = 30.0
CODE = "a.b"


def later(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


def record(**changes: Any) -> GroupRecord:
    made = GroupRecord(
        job=new_job(resync=Rung.COMPARE), started_at=NOW, ended_at=later(10), point_time=later(1), seconds=(9.0,),
        again=False, presented=True, snapshot_left=False,
    )  # fmt: skip
    return made.model_copy(update=changes)


def group_of(known: GroupRecord, **changes: Any) -> AssignedGroup:
    made = AssignedGroup(
        plan=known.job.plan, group=known.job.group, machines=("web1",), rpo_s=RPO_S, paused=False, limit=NO_LIMIT
    )
    return made.model_copy(update=changes)


def outcome(result: JobResult = JobResult.COMPLETED, **changes: Any) -> Outcome:
    return Outcome(epoch=1, result=result, **changes)


def failure(code: str = CODE, *, permanent: bool = False) -> Outcome:
    return outcome(JobResult.FAILED, problem=Problem(code=code, permanent=permanent, correlation=uuid4().hex))


class TestNextStart:
    def test_is_the_points_time_and_rpo_less_what_most_cycles_take(self) -> None:
        times = tuple(float(number) for number in range(1, 21))
        assert offline.next_start(record(seconds=times), RPO_S) == later(1 + RPO_S - 18)

    def test_without_durations_the_whole_rpo(self) -> None:
        assert offline.next_start(record(seconds=()), RPO_S) == later(1 + RPO_S)

    def test_never_before_the_last_cycle_has_ended(self) -> None:
        assert offline.next_start(record(seconds=(900.0,)), RPO_S) == later(10)

    @pytest.mark.parametrize(("ended", "expected"), [(None, 0), (later(7), 7)])
    def test_without_a_point_at_once(self, ended: datetime | None, expected: float) -> None:
        assert offline.next_start(record(point_time=None, ended_at=ended), RPO_S) == later(expected)


class TestDue:
    @pytest.mark.parametrize(("seconds", "expected"), [(621.9, False), (622, True), (9000, True)])
    def test_after_the_next_start_and_a_grace(self, seconds: float, expected: bool) -> None:
        known = record()  # 1 + 600 - 9, and 30
        at = Moments(later(seconds), seconds)
        assert offline.is_due(known, group_of(known), at, GRACE_S) is expected

    def test_a_clock_that_was_set_back_keeps_nobody_waiting(self) -> None:
        known = record()
        assert not offline.is_due(known, group_of(known), Moments(later(-3600), 629.9), GRACE_S)
        assert offline.is_due(known, group_of(known), Moments(later(-3600), 630), GRACE_S)

    @given(jumps=st.lists(st.integers(-7200, 7200), min_size=1, max_size=40))
    def test_however_the_clock_jumps_starts_are_half_an_rpo_apart(self, jumps: list[int]) -> None:
        known, since, wall, starts = record(), 0.0, NOW, 0
        for jump in jumps:
            wall, since = wall + timedelta(seconds=jump + 60), since + 60
            if offline.is_due(known, group_of(known), Moments(wall, since), GRACE_S):
                assert since >= RPO_S / 2
                known, since, starts = record(started_at=wall, ended_at=wall, point_time=wall), 0.0, starts + 1
        assert starts <= len(jumps) * 60 / (RPO_S / 2)

    @pytest.mark.parametrize("why", ["paused", "fenced"])
    def test_never_when_somebody_has_said_no(self, why: str) -> None:
        known = record(fenced=why == "fenced")
        group = group_of(known, paused=why == "paused")
        assert not offline.is_due(known, group, Moments(later(9000), 9000), GRACE_S)


class TestFollowing:
    def test_the_next_successor_of_a_cycle_that_is_over(self) -> None:
        known = record(successor=4)
        after = offline.following(known, group_of(known, machines=("web1", "web2")), later(700))
        job = offline.job_of(after)
        assert (job.successor, job.cycle) == (5, successor_cycle(known.job.cycle, 5))
        assert (job.ticket, job.epoch, job.resync) == (known.job.ticket, known.job.epoch, None)
        assert job.machines == ("web1", "web2")
        assert (after.again, after.snapshot_left, after.started_at) == (True, True, later(700))
        assert after.snapshot_name == source_snapshot_name(job.group, job.cycle)

    def test_a_group_without_machines_keeps_those_of_its_lease(self) -> None:
        known = record()
        assert offline.job_of(offline.following(known, group_of(known, machines=()), NOW)).machines == ("web1",)

    @pytest.mark.parametrize("changes", [{"again": True}, {"presented": False}])
    def test_the_same_one_again(self, changes: dict[str, bool]) -> None:
        known = record(**changes)
        after = offline.following(known, group_of(known, machines=("other",)), later(700))
        assert offline.job_of(after) == known.job


class TestRecords:
    def test_of_a_new_lease_keep_how_it_went_so_far(self) -> None:
        job, before = new_job(), record(fenced=True, successor=3)
        made = offline.leased(job, NOW, before)
        assert (made.job, made.successor, made.fenced, made.again) == (job, 0, False, True)
        assert (made.point_time, made.seconds) == (before.point_time, before.seconds)
        assert offline.leased(job, NOW, None).seconds == ()

    def test_of_a_point(self) -> None:
        made = outcome(point=PointId(uuid4()), source_time=later(50))
        after = offline.ended(record(again=True, presented=False), later(60), made, 8.0, begun=False)
        assert (after.again, after.presented, after.snapshot_left) == (False, True, False)
        assert (after.point_time, after.ended_at, after.seconds) == (later(50), later(60), (9.0, 8.0))

    def test_of_a_point_whose_snapshot_is_gone_keep_the_older_time(self) -> None:
        assert offline.ended(record(), later(60), outcome(), 8.0, begun=True).point_time == later(1)

    def test_keep_the_last_twenty_durations(self) -> None:
        known = record()
        for seconds in range(30):
            known = offline.ended(known, NOW, outcome(), float(seconds), begun=True)
        assert known.seconds == tuple(map(float, range(10, 30)))

    @pytest.mark.parametrize(
        ("result", "again"),
        [
            (failure(), True),
            (failure(permanent=True), False),
            (failure("cycle.dropped"), False),
            (outcome(JobResult.FAILED), False),
            (outcome(JobResult.CANCELLED), True),
        ],
        ids=["passing", "permanent", "dropped", "nameless", "cancelled"],
    )
    def test_of_what_failed(self, result: Outcome, again: bool) -> None:
        after = offline.ended(record(), later(60), result, 8.0, begun=False)
        assert (after.again, after.snapshot_left) == (again, True)
        assert (after.point_time, after.seconds) == (later(1), (9.0,))

    @pytest.mark.parametrize(
        "code", ["cycle.epoch-behind", "cycle.stale-epoch", "ticket.epoch", "ticket.expired", "ticket.successor"]
    )
    def test_of_a_lease_that_is_anothers_now(self, code: str) -> None:
        assert offline.ended(record(), NOW, failure(code), 1.0, begun=False).fenced

    def test_overtake_only_the_leases_own_cycle(self) -> None:
        known = record(successor=1)
        assert offline.overtakes(known, known.job.model_copy(update={"epoch": 9}))
        assert not offline.overtakes(known, known.job.model_copy(update={"cycle": CycleId(uuid4())}))
        assert not offline.overtakes(record(), record().job)
        assert not offline.overtakes(None, known.job)

    @pytest.mark.parametrize(("seconds", "expected"), [(5, 5.0), (-3600, 0.0)])
    def test_know_their_last_start_after_a_restart(self, seconds: float, expected: float) -> None:
        assert offline.since_start_s(record(), later(seconds)) == expected
