import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from dmcore.api.jobs import JobView, PointOutcome, PointVerdict
from dmcore.api.points import PointJob
from dmcore.errors import ExitCode
from dmcore.model.enums import Rung
from dmcore.model.ids import PointId
from dmcore.model.jobs import JobKind, JobState
from dmcore.model.points import PointState
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import CONNECTOR, NOW, a_point, completed

GOOD = UUID("90" * 16)


@pytest.fixture
def point(control: FakeControl) -> UUID:
    """The newest good one of two good ones, of a plan of its own; a failed one is newer."""
    web, db = control.add_plan("web", UUID(int=1)), control.add_plan("db", UUID(int=2))
    control.point_views = [
        a_point(plan=db.id, state=PointState.FAILED, source_time=NOW + timedelta(hours=2)),
        a_point(id=GOOD, plan=web.id, source_time=NOW + timedelta(hours=1)),
        a_point(id=UUID("91" * 16), plan=db.id),
    ]
    return GOOD


class TestListAndShow:
    def test_a_row_a_point(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.add_plan("web", UUID(int=1))
        recent = datetime.now(UTC) - timedelta(minutes=10)
        control.point_views = [
            a_point(id=GOOD, source_time=recent, verified_at=recent, preserved=True, rungs=(Rung.DELTA, Rung.SEED)),
            a_point(id=UUID("91" * 16), plan=UUID("ff" * 16), source_time=recent, lacking=1, rungs=()),
        ]
        lines = dmctl("point", "list").stdout.splitlines()
        title, _, first, second = (" ".join(line.split()) for line in lines)
        shown = recent.strftime("%Y-%m-%d %H:%M:%SZ")
        assert title == "Recovery points: 2"
        assert first == f"90909090 web {shown} 10 min available 2 delta, seed 10 min ago preserved"
        assert second == f"91919191 ffffffff {shown} 10 min available 2 (-1) -"
        assert all(len(line) <= 120 for line in lines)

    def test_as_json(self, dmctl: Dmctl, control: FakeControl, point: UUID) -> None:
        listed = json.loads(dmctl("point", "list", "--plan", "db", "--limit", 1, "--json").stdout)
        assert (len(listed["points"]), listed["more"]) == (1, True)
        assert "and older ones" in dmctl("point", "list", "--limit", 1).stdout

    def test_where_a_point_was_recovered_to(self, dmctl: Dmctl, control: FakeControl, point: UUID) -> None:
        recent = datetime.now(UTC) - timedelta(minutes=10)
        told = {"to": "standby", "due_at": recent, "problem": None, "kind": JobKind.RECOVER}
        control.about = (
            PointJob(job=UUID("aa" * 16), state=JobState.RUNNING, ended_at=None, verdict=None, **told),
            PointJob(job=UUID("bb" * 16), state=JobState.COMPLETED, ended_at=NOW, verdict=PointVerdict.DONE, **told),
            PointJob(job=UUID("cc" * 16), state=JobState.FAILED, ended_at=NOW, verdict=None,
                     **told | {"problem": "target.full"}),
        )  # fmt: skip
        lines = [" ".join(line.split()) for line in dmctl("point", "show", "90").stdout.splitlines()[-3:]]
        assert lines == [
            "aaaaaaaa recover standby 10 min ago running -",
            "bbbbbbbb recover standby 10 min ago completed done",
            "cccccccc recover standby 10 min ago failed target.full",
        ]

    def test_all_of_a_point(self, dmctl: Dmctl, control: FakeControl, point: UUID) -> None:
        shown = dmctl("point", "show", "90").stdout
        assert CONNECTOR in shown
        assert "verified" in shown
        assert json.loads(dmctl("point", "show", str(point), "--json").stdout)["id"] == str(point)
        control.point_views = [a_point(lacking=2)]
        assert "2 disks of the group" in dmctl("point", "show", "latest").stdout


class TestNames:
    def test_latest_is_the_newest_good_one(self, dmctl: Dmctl, control: FakeControl, point: UUID) -> None:
        assert json.loads(dmctl("point", "show", "latest", "--json").stdout)["id"] == str(point)
        of_db = json.loads(dmctl("point", "show", "latest", "--plan", "db", "--json").stdout)
        assert of_db["id"] == str(UUID("91" * 16))

    def test_latest_of_none(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.point_views = [a_point(state=PointState.DEGRADED)]
        result = dmctl("point", "verify", "latest")
        assert result.exit_code == ExitCode.REFUSED
        assert "no good point 'latest'; `dmctl point list` lists them" in result.stderr

    def test_a_page_at_a_time_but_not_for_ever(
        self, dmctl: Dmctl, control: FakeControl, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("dmctl.finding.MAX_PAGES", 3)
        control.page = 1
        control.point_views = [
            a_point(id=UUID(f"{number:08x}".ljust(32, "f")), source_time=NOW)  # all of one time
            for number in range(5)
        ]
        assert dmctl("point", "show", "00000002").exit_code == 0
        assert dmctl("point", "show", "00000003").exit_code == ExitCode.REFUSED

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            ("9", "name.ambiguous"),
            ("ee", "name.unknown"),
            ("../x", "name.unknown"),
            (str(UUID(int=9)), "object.unknown"),
        ],
    )
    def test_no_point_or_several(self, dmctl: Dmctl, control: FakeControl, point: UUID, name: str, code: str) -> None:
        result = dmctl("point", "show", name, "--json")
        assert result.exit_code == ExitCode.REFUSED
        assert json.loads(result.stderr)["error"]["code"] == code

    def test_no_such_plan(self, dmctl: Dmctl, control: FakeControl, point: UUID) -> None:
        assert dmctl("point", "show", "latest", "--plan", "mail").exit_code == ExitCode.REFUSED


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        (["verify", "latest"], (JobKind.VERIFY, GOOD)),
        (["recover", "latest", "--to", "standby"], (JobKind.RECOVER, GOOD, "standby")),
        (["preserve", "latest"], (JobKind.PRESERVE, GOOD, True)),
        (["preserve", "latest", "--off"], (JobKind.PRESERVE, GOOD, False)),
        (["delete", "latest", "--yes"], (JobKind.EXPIRE, GOOD)),
        (["rebuild", "--connector", "c0"], (JobKind.INDEX, CONNECTOR)),
    ],
    ids=lambda value: value[0],
)
class TestJobs:
    def test_a_job_is_made_and_named(
        self, dmctl: Dmctl, control: FakeControl, point: UUID, command: list[str], asked: tuple[object, ...]
    ) -> None:
        result = dmctl("point", *command)
        assert result.exit_code == 0
        assert control.asked[-1] == asked
        assert f"Job {str(control.job_views[0].id)[:8]}, {asked[0]} of" in result.stdout
        assert (str(point) in result.stderr) == (asked[0] is not JobKind.INDEX)

    def test_as_json(
        self, dmctl: Dmctl, control: FakeControl, point: UUID, command: list[str], asked: tuple[object, ...]
    ) -> None:
        assert json.loads(dmctl("point", *command, "--json").stdout)["kind"] == asked[0]

    def test_wait(
        self, dmctl: Dmctl, control: FakeControl, point: UUID, no_wait: None, command: list[str],
        asked: tuple[object, ...],
    ) -> None:  # fmt: skip
        control.meanwhile = completed
        result = dmctl("point", *command, "--wait")
        assert result.exit_code == 0
        assert result.stdout.splitlines()[-1].endswith("done in 12.0 s")


def test_a_point_that_the_connector_keeps(dmctl: Dmctl, control: FakeControl, point: UUID, no_wait: None) -> None:
    def kept(job: JobView) -> JobView:
        return completed(job, points=(PointOutcome(point=PointId(point), verdict=PointVerdict.KEPT),))

    control.meanwhile = kept
    result = dmctl("point", "delete", "latest", "--yes", "--wait")
    assert result.exit_code == ExitCode.REFUSED
    assert "the connector's own retention keeps the point, whoever asks" in result.stderr
    assert "[point.kept, exit code 9" in result.stderr


def test_a_point_is_deleted_by_who_types_its_id(dmctl: Dmctl, control: FakeControl, point: UUID) -> None:
    assert dmctl("point", "delete", "latest", input="90909090\n").exit_code == 0
    control.asked.clear()
    assert dmctl("point", "delete", "latest", input="latest\n").exit_code == ExitCode.REFUSED
    assert JobKind.EXPIRE not in {what[0] for what in control.asked}


def test_only_a_connector_has_points(dmctl: Dmctl, control: FakeControl) -> None:
    assert dmctl("point", "rebuild", "--connector", "a1").exit_code == ExitCode.REFUSED
    assert dmctl("point", "recover", "latest").exit_code == ExitCode.USAGE
