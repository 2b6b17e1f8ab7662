import json
import os
import signal
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from dmcore.api.base import Problem
from dmcore.api.client_errors import ControlDenied, ControlUnreachable
from dmcore.api.jobs import DiskTotals, JobView, PointOutcome, PointVerdict
from dmcore.errors import ExitCode
from dmcore.model.enums import Reason, Rung, Stage
from dmcore.model.ids import DiskId, PointId
from dmcore.model.jobs import JobKind, JobState
from dmctl.errors import WatchInterrupted
from tests.dmctl.conftest import Dmctl
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import NOW, a_job, completed, running

DISK = DiskTotals(
    disk=DiskId(UUID("d1" * 16)), rung=Rung.DELTA, reason=Reason.TRACKED, to_read_bytes=8_000_000, read_bytes=2_000_000
)
POINT = PointId(UUID("ee" * 16))
LOST = Problem(code="source.changed", permanent=True, correlation="ab" * 16)


def failed(job: JobView) -> JobView:
    return completed(job, state=JobState.FAILED, problem=LOST)


class TestListAndShow:
    def test_a_row_a_job(self, dmctl: Dmctl, control: FakeControl) -> None:
        due = datetime.now(UTC) - timedelta(minutes=10)
        control.job_views = [
            a_job(id=UUID("aa" * 16), due_at=datetime.now(UTC) + timedelta(hours=3)),
            running(a_job(id=UUID("ab" * 16), due_at=due), stage=Stage.TRANSFER, done_bytes=1, total_bytes=2),
            completed(a_job(id=UUID("ac" * 16), due_at=due), point=UUID("ff" * 16)),
            failed(a_job(id=UUID("ad" * 16), due_at=due)),
            completed(
                a_job(id=UUID("ae" * 16), due_at=due, kind=JobKind.EXPIRE, plan_name=None, machines=()),
                points=(PointOutcome(point=PointId(UUID(int=1)), verdict=PointVerdict.KEPT),),
            ),
        ]
        title, _, *rows = (" ".join(line.split()) for line in dmctl("job", "list").stdout.splitlines())
        assert title == "Jobs: 5"
        assert rows[0].startswith("aaaaaaaa cycle web web1 in ")
        assert rows[1] == "abababab cycle web web1 10 min ago - transfer 1 B of 2 B read"
        assert rows[2] == "acacacac cycle web web1 10 min ago 12 s completed point ffffffff"
        assert rows[3] == "adadadad cycle web web1 10 min ago 12 s failed source.changed"
        assert rows[4] == "aeaeaeae expire - - 10 min ago 12 s completed kept"

    def test_filters_are_asked_for(self, dmctl: Dmctl, control: FakeControl) -> None:
        plan = control.add_plan()
        assert (
            dmctl("job", "list", "--plan", "web", "--state", "failed", "--kind", "cycle", "--limit", 7).exit_code == 0
        )
        assert control.asked[-1] == ("jobs", plan.id, JobState.FAILED, JobKind.CYCLE, 7, None)

    def test_as_json_with_whether_there_are_more(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.job_views = [a_job(), a_job()]
        listed = json.loads(dmctl("job", "list", "--limit", 1, "--json").stdout)
        assert listed == {"jobs": [control.job_views[0].model_dump(mode="json")], "more": True}
        assert "Jobs: 1, and older ones" in dmctl("job", "list", "--limit", 1).stdout

    @pytest.mark.parametrize("option", [["--limit", "0"], ["--state", "odd"], ["--kind", "odd"]])
    def test_a_wrong_filter(self, dmctl: Dmctl, control: FakeControl, option: list[str]) -> None:
        assert dmctl("job", "list", *option).exit_code == ExitCode.USAGE

    def test_all_of_a_job(self, dmctl: Dmctl, control: FakeControl) -> None:
        job = running(a_job(offline=True), stage=Stage.TRANSFER, disks=(DISK,))
        control.job_views = [job.model_copy(update={"seconds": {Stage.SNAPSHOT: 1.25}, "problem": LOST})]
        shown = dmctl("job", "show", str(job.id)).stdout
        assert "snapshot 1.2 s" in shown
        assert f"source.changed, correlation {LOST.correlation}" in shown
        assert "yes, while there was no control plane" in shown
        assert shown.splitlines()[-1].split()[:5] == ["d1d1d1d1", "delta", "tracked", "2.0", "MB"]

    def test_where_a_recovery_goes(self, dmctl: Dmctl, control: FakeControl) -> None:
        verdicts = (PointOutcome(point=POINT, verdict=PointVerdict.DONE),)
        control.job_views = [completed(a_job(kind=JobKind.RECOVER, point=POINT, to="standby", points=verdicts))]
        shown = dmctl("job", "show", str(control.job_views[0].id)).stdout
        assert [line.split() for line in shown.splitlines() if line.startswith(("point ", "to "))] == [
            ["point", str(POINT)], ["to", "standby"],
        ]  # fmt: skip
        assert f"point {str(POINT)[:8]} to standby done" in " ".join(dmctl("job", "list").stdout.split())

    def test_all_of_a_job_that_did_nothing_yet(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.job_views = [a_job()]
        shown = dmctl("job", "show", str(control.job_views[0].id)[:31]).stdout
        assert "Disks" not in shown
        assert json.loads(dmctl("job", "show", str(control.job_views[0].id), "--json").stdout)["state"] == "queued"


class TestNames:
    def test_a_beginning_is_looked_for_on_every_page(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.page = 2
        control.job_views = [
            a_job(id=UUID(f"{number:08x}".ljust(32, "0")), due_at=NOW - timedelta(seconds=number))
            for number in range(5)
        ]
        assert dmctl("job", "show", "00000004").exit_code == 0
        assert [asked[0] for asked in control.asked] == ["jobs"] * 3 + ["job"]

    def test_but_not_for_ever(self, dmctl: Dmctl, control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dmctl.finding.MAX_PAGES", 2)
        control.page = 1
        control.job_views = [a_job(due_at=NOW - timedelta(seconds=number)) for number in range(5)]
        result = dmctl("job", "show", str(control.job_views[4].id)[:32])
        assert result.exit_code == ExitCode.REFUSED
        assert len(control.asked) == 2

    @pytest.mark.parametrize("name", ["", "xyz", "../..", "a" * 10_000])
    def test_what_cannot_be_an_id_is_not_looked_for(self, dmctl: Dmctl, control: FakeControl, name: str) -> None:
        result = dmctl("job", "show", name)
        assert result.exit_code == ExitCode.REFUSED
        assert control.asked == []

    @pytest.mark.parametrize("name", [str(UUID(int=99)), "z" * 36])
    def test_a_whole_id_that_is_no_jobs(self, dmctl: Dmctl, control: FakeControl, name: str) -> None:
        assert dmctl("job", "show", name).exit_code == ExitCode.REFUSED

    def test_several_begin_so(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.job_views = [a_job(), a_job()]
        assert "2 jobs begin with '0000'" in dmctl("job", "show", "0000").stderr


class TestCancel:
    def test_one_that_waits_is_cancelled_at_once(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.job_views = [a_job()]
        result = dmctl("job", "cancel", str(control.job_views[0].id))
        assert result.stdout.endswith("cycle of web (web1): cancelled.\n")

    def test_one_that_runs_is_told(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.job_views = [running(a_job())]
        result = dmctl("job", "cancel", str(control.job_views[0].id))
        assert result.stdout.endswith("its node is told with the next heartbeat.\n")
        shown = json.loads(dmctl("job", "cancel", str(control.job_views[0].id), "--json").stdout)
        assert shown["cancelling"] is True


@pytest.mark.usefixtures("no_wait")
class TestWatch:
    def test_lines_where_there_is_no_terminal(self, dmctl: Dmctl, control: FakeControl) -> None:
        job = a_job()
        control.job_views = [job]
        steps = [
            running(job, stage=Stage.TRANSFER, done_bytes=2_000_000, total_bytes=8_000_000),
            running(job, stage=Stage.COMMIT, applied_bytes=1000, to_apply_bytes=4000),
            completed(job, point=UUID("ff" * 16)),
        ]
        control.meanwhile = lambda _: steps.pop(0) if len(steps) > 1 else steps[0]
        result = dmctl("job", "watch", str(job.id))
        assert result.exit_code == 0
        assert [line.split(" (web1): ")[1] for line in result.stdout.splitlines()] == [
            "transfer: 2.0 MB of 8.0 MB read",
            "commit: 1.0 kB of 4.0 kB applied",
            f"done in 12.0 s, point {UUID('ff' * 16)}",
        ]

    def test_json_is_an_event_a_line(self, dmctl: Dmctl, control: FakeControl) -> None:
        job = a_job()
        control.job_views = [job]
        steps = [job, running(job), running(job), completed(job)]
        control.meanwhile = lambda _: steps.pop(0)
        events = [json.loads(line) for line in dmctl("job", "watch", str(job.id), "--json").stdout.splitlines()]
        assert [(event["event"], event["job"]["state"]) for event in events] == [
            ("progress", "queued"),
            ("progress", "running"),
            ("ended", "completed"),
        ]

    @pytest.mark.parametrize(
        ("job", "exit_code", "words"),
        [
            (failed(a_job()), ExitCode.SOURCE, "it failed with source.changed; the log of node a1a1a1a1a1a1 says more"),
            (completed(a_job(), state=JobState.CANCELLED), ExitCode.INTERRUPTED, "it was cancelled"),
            (completed(a_job(), state=JobState.FAILED), ExitCode.INTERNAL, "it failed with internal"),
            (
                completed(a_job(), state=JobState.FAILED, problem=LOST.model_copy(update={"code": "of.the-future"})),
                ExitCode.INTERNAL,
                "it failed with of.the-future",
            ),
        ],
        ids=["failed", "cancelled", "without-a-reason", "unknown-code"],
    )
    def test_the_exit_code_is_the_jobs(
        self, dmctl: Dmctl, control: FakeControl, job: JobView, exit_code: ExitCode, words: str
    ) -> None:
        control.job_views = [completed(a_job()), job]
        result = dmctl("job", "watch", str(control.job_views[0].id), str(job.id))
        assert result.exit_code == exit_code
        assert words in result.stderr

    def test_why_it_failed_as_json(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.job_views = [failed(a_job())]
        result = dmctl("job", "watch", str(control.job_views[0].id), "--json")
        error = json.loads(result.stderr)["error"]
        assert (error["code"], error["exit_code"], error["permanent"], error["correlation"]) == (
            "source.changed", 5, True, LOST.correlation,
        )  # fmt: skip

    @pytest.mark.parametrize(
        ("verdict", "exit_code"),
        [(PointVerdict.DONE, ExitCode.OK), (PointVerdict.KEPT, ExitCode.REFUSED), (PointVerdict.BUSY, ExitCode.BUSY),
         (PointVerdict.UNKNOWN, ExitCode.REFUSED)],
    )  # fmt: skip
    def test_a_point_that_was_not_deleted_is_no_success(
        self, dmctl: Dmctl, control: FakeControl, verdict: PointVerdict, exit_code: ExitCode
    ) -> None:
        points = (PointOutcome(point=PointId(UUID(int=1)), verdict=verdict),)
        control.job_views = [completed(a_job(kind=JobKind.EXPIRE), points=points)]
        assert dmctl("job", "watch", str(control.job_views[0].id)).exit_code == exit_code

    def test_control_c_leaves_the_job_running(self, dmctl: Dmctl, control: FakeControl) -> None:
        job = running(a_job(), stage=Stage.TRANSFER)
        control.job_views = [job]

        def interrupted(same: JobView) -> JobView:
            if len(control.asked) > 2:
                os.kill(os.getpid(), signal.SIGINT)
            return same

        control.meanwhile = interrupted
        result = dmctl("job", "watch", str(job.id))
        assert result.exit_code == ExitCode.INTERRUPTED
        short = str(job.id)[:8]
        assert f"still under way: job {short}; `dmctl job watch {short}` looks again" in result.stderr
        assert WatchInterrupted.code in result.stderr
        assert [what[0] for what in control.asked] == ["job"] * len(control.asked)

    def test_a_short_silence_is_borne(self, dmctl: Dmctl, control: FakeControl) -> None:
        job = a_job()
        control.job_views = [job]
        silent = ControlUnreachable(url="https://control.example", problem="refused")
        steps: list[JobView | Exception] = [job, silent, silent, running(job), silent, completed(job)]

        def step(_: JobView) -> JobView:
            now = steps.pop(0)
            if isinstance(now, Exception):
                raise now
            return now

        control.meanwhile = step
        result = dmctl("job", "watch", str(job.id))
        assert result.exit_code == 0
        assert result.stderr.count("the control plane does not answer; the jobs go on") == 2

    def test_a_long_silence_is_not(self, dmctl: Dmctl, control: FakeControl, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("dmctl.watching.PATIENCE_S", -1.0)
        control.job_views = [a_job()]

        def silent(job: JobView) -> JobView:
            if len(control.asked) == 1:
                return job
            raise ControlUnreachable(url="https://control.example", problem="refused")

        control.meanwhile = silent
        assert dmctl("job", "watch", str(control.job_views[0].id)).exit_code == ExitCode.CONNECTION

    def test_a_revoked_token_ends_it_at_once(self, dmctl: Dmctl, control: FakeControl) -> None:
        control.job_views = [a_job()]

        def denied(job: JobView) -> JobView:
            if len(control.asked) == 1:
                return job
            raise ControlDenied(reason="auth.required", message="no valid token", status=401)

        control.meanwhile = denied
        assert dmctl("job", "watch", str(control.job_views[0].id)).exit_code == ExitCode.TRUST
        assert len(control.asked) == 2
