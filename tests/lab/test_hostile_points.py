"""A control plane in the wrong hands, and a connector: what its jobs can make of points and of paths.

As in test_hostile_control.py: the keys are the real ones, and `unharmed` is what holds in every test.
"""

from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

import pytest

from dmcore.api.jobs import MAX_EXPIRING, JobResult, Outcome, PointVerdict
from dmcore.lab.deployment import RECOVERIES
from dmcore.lab.layout import SOURCE, TARGET
from dmcore.model.ids import PointId
from dmcore.model.jobs import JobKind
from tests.lab.hostile import GO_ON, poll_fields, refusal
from tests.lab.hostile_lab import VAULT, HostileLab, Victim, until
from tests.lab.test_hostile_control import ODD_NAMES, code_of

NEVER = PointId(UUID(int=1))
ODD_JOBS: list[dict[str, Any]] = [
    {"points": [str(NEVER)] * (MAX_EXPIRING + 1)}, {"points": [str(NEVER)] * 100_000}, {"points": "all"},
    {"points": {"all": True}}, {"kind": "cycle"}, {"kind": "shell"}, {"kind": None}, {"epoch": -1}, {"epoch": 1 << 63},
    {"preserved": "perhaps"}, {"command": "rm -rf /"}, {"path": "/etc"}, {"key": "x"}, {"retention": {"keep_s": 0}},
]  # fmt: skip


def verdicts(outcome: Outcome) -> set[PointVerdict]:
    return {each.verdict for each in outcome.points}


@pytest.fixture
def old(lab: HostileLab, victim: Victim) -> Victim:
    """A victim with six points, all of them older than what is kept for its age."""
    for _ in range(5):
        lab.honest(victim)
    lab.age(days=30)
    return victim


class TestExpiry:
    def test_all_points_one_by_one(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for point in lab.points(victim):
                assert verdicts(lab.ask_connector(JobKind.EXPIRE, point)) == {PointVerdict.KEPT}

    def test_all_points_by_storm(self, lab: HostileLab, victim: Victim) -> None:
        lab.honest(victim)
        with lab.unharmed(victim):
            jobs = [lab.connector_job(JobKind.EXPIRE, *lab.points(victim)) for _ in range(60)]
            lab.control.give(lab.connector_id, *jobs)
            assert {verdict for job in jobs for verdict in verdicts(lab.control.outcome(job))} <= {
                PointVerdict.KEPT, PointVerdict.BUSY,
            }  # fmt: skip

    def test_what_is_old(self, lab: HostileLab, old: Victim) -> None:
        """It may have what the connector's own rules let go, and nothing of the newest."""
        points = lab.points(old)
        for _ in range(3):
            jobs = [lab.connector_job(JobKind.EXPIRE, *asked) for asked in (points, reversed(points), points[-1:])]
            lab.control.give(lab.connector_id, *jobs)
            for job in jobs:
                lab.control.outcome(job)
        assert lab.points(old) == points[-3:]
        with lab.unharmed(old):
            pass

    def test_after_cycles_of_the_other_machine_only(self, lab: HostileLab) -> None:
        """Newer points that lack a machine do not stand for it."""
        pair = lab.victim(machines=2)
        whole = lab.points(pair)
        for _ in range(5):
            assert lab.run(lab.job(pair, machines=pair.machines[:1])).result is JobResult.COMPLETED
            lab.finished()
        lab.age(days=30)
        lab.ask_connector(JobKind.EXPIRE, *lab.points(pair))
        assert set(whole) <= set(lab.points(pair))
        with lab.unharmed(pair):
            pass

    def test_what_an_operator_preserves(self, lab: HostileLab, old: Victim) -> None:
        """Taking the mark off does not take the last ones."""
        points = lab.points(old)
        lab.ask_connector(JobKind.PRESERVE, *points, preserved=False)
        lab.ask_connector(JobKind.EXPIRE, *points)
        assert lab.points(old) == points[-3:]

    def test_what_is_being_read(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            points = lab.points(victim)
            jobs = [lab.connector_job(kind, *points) for kind in (JobKind.VERIFY, JobKind.EXPIRE) for _ in range(10)]
            lab.control.give(lab.connector_id, *jobs)
            for job in jobs:
                lab.control.outcome(job)

    @pytest.mark.parametrize("days", [2, 400, 36_500])
    def test_with_the_connectors_clock_set_forward(self, lab: HostileLab, victim: Victim, days: int) -> None:
        """A false time server's doing, say. Nothing expires by a clock that jumped."""
        before = lab.held(victim)
        lab.clock.advance(days=days)
        assert code_of(lab.ask_connector(JobKind.EXPIRE, *lab.points(victim))) == "clock.jumped"
        lab.clock.advance(days=-days)
        assert lab.held(victim) == before
        with lab.unharmed(victim):
            pass

    def test_with_the_clock_set_back(self, lab: HostileLab, victim: Victim) -> None:
        before = lab.held(victim)
        lab.clock.advance(days=-400)
        assert verdicts(lab.ask_connector(JobKind.EXPIRE, *lab.points(victim))) == {PointVerdict.KEPT}
        lab.clock.advance(days=400)
        assert lab.held(victim) == before

    def test_with_a_lie_about_the_time(self, lab: HostileLab, victim: Victim) -> None:
        """A node measures its clock by what the control plane says. That is for signatures and nothing else."""
        with lab.unharmed(victim):
            for year in (1971, 2099, 2999):
                lie = refusal(401, "clock.skewed", date=datetime(year, 1, 1, tzinfo=UTC))
                for node in (lab.connector_id, lab.node_id()):
                    lab.control.answer(node, lie, lie)
                    lab.control.settled(node)
                lab.age(days=0)
                assert verdicts(lab.ask_connector(JobKind.EXPIRE, *lab.points(victim))) == {PointVerdict.KEPT}

    def test_after_a_restart(self, lab: HostileLab, victim: Victim) -> None:
        before = lab.held(victim)
        lab.control.give(lab.connector_id, *(lab.connector_job(JobKind.EXPIRE, *lab.points(victim)) for _ in range(9)))
        lab.stop()
        lab.start()
        lab.control.settled(lab.connector_id)
        assert lab.held(victim) == before


class TestRecovery:
    def test_into_what_is_no_recovery_folder(self, lab: HostileLab, victim: Victim) -> None:
        """Targets and sources are aliases, too."""
        with lab.unharmed(victim):
            for to in (TARGET, VAULT, SOURCE, "restore2", "outside"):
                assert code_of(lab.ask_connector(JobKind.RECOVER, *lab.points(victim), to=to)) == "alias.unknown"

    def test_to_nowhere(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            assert code_of(lab.ask_connector(JobKind.RECOVER, *lab.points(victim))) == "job.malformed"
            assert code_of(lab.ask_connector(JobKind.PRESERVE, *lab.points(victim))) == "job.malformed"

    def test_odd_names(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            job = lab.connector_job(JobKind.RECOVER, *lab.points(victim), to=RECOVERIES)
            odd = [each for each in ODD_NAMES if each is not None]
            lab.control.answer(lab.connector_id, *(poll_fields(job, to=name) for name in odd))
            lab.control.answer(lab.connector_id, *(poll_fields(job, points=[name]) for name in ODD_NAMES))
            lab.control.answer(lab.connector_id, *(poll_fields(job, job=name) for name in ODD_NAMES))
            lab.control.settled(lab.connector_id)
            assert not lab.control.outcomes[job.job]
            assert not list(lab.lab.recovered.iterdir())

    def test_over_what_is_there(self, lab: HostileLab, victim: Victim) -> None:
        """One copy of a point, wherever it is asked for; what a customer has put there stays."""
        (point, *_) = lab.points(victim)
        mine = lab.lab.recovered / str(point)
        mine.mkdir()
        (mine / "mine.txt").write_text("mine")
        (lab.lab.recovered / f".{point}.{UUID(int=7)}").symlink_to(lab.outside)
        with lab.unharmed(victim):
            for job in (uuid4(), UUID(int=7)):
                made = lab.connector_job(JobKind.RECOVER, point, to=RECOVERIES).model_copy(update={"job": job})
                lab.control.give(lab.connector_id, made)
                assert code_of(lab.control.outcome(made)) == "recover.refused"
        assert [path.name for path in mine.iterdir()] == ["mine.txt"]

    def test_a_storm_of_recoveries(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            points = lab.points(victim)
            jobs = [lab.connector_job(JobKind.RECOVER, *points, to=RECOVERIES) for _ in range(20)]
            lab.control.give(lab.connector_id, *jobs)
            done = [lab.control.outcome(job).result for job in jobs]
            assert done.count(JobResult.COMPLETED) == 1
        assert {path.name for path in lab.lab.recovered.iterdir()} == {str(point) for point in points}


class TestLists:
    def test_as_long_as_they_may_be(self, lab: HostileLab, victim: Victim) -> None:
        """Of points that are none."""
        with lab.unharmed(victim):
            for kind in (JobKind.VERIFY, JobKind.EXPIRE, JobKind.PRESERVE, JobKind.RECOVER):
                made_up = [PointId(uuid4()) for _ in range(MAX_EXPIRING)]
                outcome = lab.ask_connector(kind, *made_up, preserved=True, to=RECOVERIES)
                assert verdicts(outcome) == {PointVerdict.UNKNOWN}

    def test_that_are_none(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            for changes in ODD_JOBS:
                job = lab.connector_job(JobKind.EXPIRE, *lab.points(victim))
                lab.control.answer(lab.connector_id, poll_fields(job, **changes))
                lab.control.settled(lab.connector_id)
                assert not lab.control.outcomes[job.job]

    def test_a_storm_of_verifications_and_lists(self, lab: HostileLab, victim: Victim) -> None:
        with lab.unharmed(victim):
            points = lab.points(victim) * 20
            jobs = [lab.connector_job(kind, *points) for kind in (JobKind.VERIFY, JobKind.INDEX) for _ in range(10)]
            lab.control.give(lab.connector_id, *jobs)
            assert {lab.control.outcome(job).result for job in jobs} == {JobResult.COMPLETED}

    def test_cancelled_and_lost_at_every_word(self, lab: HostileLab, victim: Victim) -> None:
        """A removal that is stopped is whole or not begun."""
        with lab.unharmed(victim):
            points = lab.points(victim)
            lab.control.directives = lambda _: refusal(409, "lease.lost")
            kinds = (JobKind.VERIFY, JobKind.RECOVER, JobKind.EXPIRE, JobKind.INDEX)
            jobs = [lab.connector_job(kind, *points, to=RECOVERIES) for kind in kinds for _ in range(5)]
            lab.control.give(lab.connector_id, *jobs)
            lab.control.settled(lab.connector_id)
            lab.control.directives = lambda _: GO_ON
            until(lambda: lab.connector.service is not None and not lab.connector.service._desk._running)
