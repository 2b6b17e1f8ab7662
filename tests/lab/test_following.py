"""From a job to its point, as the demo follows it: what is shown, and what a job that failed is told with."""

from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest

from dmcore.api.base import Problem
from dmcore.api.jobs import DiskTotals, JobsReply, JobView, Progress
from dmcore.errors import ExitCode
from dmcore.lab import following
from dmcore.lab.errors import JobFailed
from dmcore.lab.following import await_job, await_point, progress_of, report_of
from dmcore.model.enums import Reason, Rung, Stage
from dmcore.model.ids import DiskId, PlanId, PointId
from dmcore.model.jobs import JobState
from dmctl.codes import exit_code_of
from tests.dmctl.control import FakeControl
from tests.dmctl.facts import NOW, a_job, a_point, completed, running

PLAN, POINT, DISK = PlanId(uuid4()), PointId(uuid4()), DiskId(uuid4())
TOTALS = DiskTotals(disk=DISK, rung=Rung.SEED, reason=Reason.NO_IMAGE, to_read_bytes=10, read_bytes=10, wire_bytes=7)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "LOOK_S", 0.001)


def reply(*jobs: JobView) -> JobsReply:
    return JobsReply(jobs=jobs, more=False)


def test_a_job_is_waited_for_and_shown_until_it_has_ended() -> None:
    control, job = FakeControl(), a_job(plan=PLAN)
    steps = iter([running(job, counter=1), running(job, counter=2), completed(job, point=POINT)])
    control.job_views, control.meanwhile = [job], lambda _: next(steps)
    starts = iter([reply(), reply(), reply(job)])
    shown: list[JobView] = []
    assert await_job(control, lambda: next(starts), shown.append, exit_code_of).point == POINT
    assert [each.state for each in shown] == [
        JobState.QUEUED, JobState.RUNNING, JobState.RUNNING, JobState.COMPLETED,
    ]  # fmt: skip


def failed(problem: Problem | None, state: JobState = JobState.FAILED) -> JobView:
    return completed(a_job(plan=PLAN), state=state, problem=problem)


@pytest.mark.parametrize(
    ("job", "code", "exit_code"),
    [
        (
            failed(Problem(code="source.changed", permanent=True, correlation="c" * 32)),
            "source.changed",
            ExitCode.SOURCE,
        ),
        (failed(None, JobState.CANCELLED), "job.cancelled", exit_code_of("job.cancelled")),
    ],
    ids=["a-node-s-code", "cancelled"],
)
def test_a_job_without_a_point_is_told_with_its_own_code(job: JobView, code: str, exit_code: ExitCode) -> None:
    with pytest.raises(JobFailed, match="the appliance's log says more") as raised:
        await_job(FakeControl(), lambda: reply(job), lambda _: None, exit_code_of)
    assert (raised.value.code, raised.value.exit_code) == (code, exit_code)


def test_the_point_comes_by_its_own_way() -> None:
    control, job = FakeControl(), completed(a_job(plan=PLAN), point=POINT)
    looks: Iterator[int] = iter(range(3))

    def looked() -> None:
        if next(looks) == 2:
            control.point_views = [a_point(id=POINT, plan=PLAN)]

    await_point(control, PLAN, job, looked)
    assert next(looks, None) is None


def test_a_report_says_all_in_totals() -> None:
    job = completed(
        a_job(plan=PLAN), point=POINT, progress=Progress(disks=(TOTALS,)), source_time=NOW - timedelta(seconds=1),
        seconds={Stage.TRANSFER: 1.23456},
    )  # fmt: skip
    report = report_of(job)
    assert (report["plan"], report["job"], report["point"]) == (str(PLAN), str(job.id), str(POINT))
    assert report["disks"][0]["seconds"] == report["seconds"]["transfer"] == 1.2346
    assert report["disks"][0]["wire_bytes"] == 7
    assert report_of(completed(a_job(plan=PLAN)))["source_time"] is None


def test_progress_has_a_bar_for_each_disk() -> None:
    shown = progress_of(running(a_job(plan=PLAN), disks=(TOTALS,), applied_bytes=1, to_apply_bytes=2))
    assert shown["disks"][0]["label"] == str(DISK)[:8]
    assert (shown["applied_bytes"], shown["to_apply_bytes"]) == (1, 2)
