"""One job of each kind: what it does, what it comes to, how it is stopped."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from uuid import UUID

import pytest

from dmcore.api.jobs import ConnectorJob, JobResult, Outcome, PointVerdict
from dmcore.api.limits import NO_LIMIT
from dmcore.api.nodes import HeartbeatReply
from dmcore.api.points import MAX_POINTS, PointFact
from dmcore.connector.errors import ClockJumped, JobCancelled, JobMalformed, PointBusy, PointKept
from dmcore.connector.keeper import PointKeeper
from dmcore.connector.work import Tools, Work
from dmcore.model.ids import PointId
from dmcore.model.jobs import JobKind
from dmcore.node.errors import AliasUnknown
from dmcore.shadow.errors import ExpiryFailed, PointDamaged, PointUnknown
from dmcore.shadow.verify import Sample
from tests.connector.fake_control import UNREACHABLE, FakeNodeClient, a_job
from tests.connector.points import a_fact

POINTS = [PointId(UUID(int=number)) for number in range(1, 5)]
ROOT = Path("/recovered")
UNTIL = datetime(2026, 3, 1, 12, tzinfo=UTC)
Progress = Callable[[int], None]


class FakeKeeper:
    """Does nothing, or raises what a test says, for a point."""

    def __init__(self) -> None:
        self.errors: dict[PointId, Exception] = {}
        self.done: list[tuple[Any, ...]] = []
        self.held: list[PointFact] = []
        self.between: Callable[[], None] = lambda: None

    def size_of(self, points: tuple[PointId, ...], sample: Sample | None = None) -> int:
        return (100 if sample is None else 7) * len(points)

    def facts(self) -> list[PointFact]:
        return self.held

    def expire(self, point: PointId) -> None:
        self._do("expire", point)

    def preserve(self, point: PointId, *, preserved: bool) -> None:
        self._do("preserve", point, preserved)

    def verify(self, point: PointId, progress: Progress, sample: Sample | None = None) -> None:
        self._read("verify", progress, point, *[] if sample is None else [sample])

    def recover_under(self, point: PointId, root: Path, job: UUID, progress: Progress) -> None:
        self._read("recover", progress, point, root, job)

    def _read(self, what: str, progress: Progress, *more: Any) -> None:
        for _ in range(2):
            progress(50)
            self.between()
        self._do(what, *more)

    def _do(self, what: str, point: PointId, *more: Any) -> None:
        if point in self.errors:
            raise self.errors[point]
        self.done.append((what, point, *more))


@pytest.fixture
def keeper() -> FakeKeeper:
    return FakeKeeper()


@pytest.fixture
def client() -> FakeNodeClient:
    return FakeNodeClient()


def folder_of(alias: str) -> Path:
    if alias != "vault":
        raise AliasUnknown(noun="recovery folder", alias=alias, known="vault")
    return ROOT


@pytest.fixture
def tools(keeper: FakeKeeper, client: FakeNodeClient) -> Tools:
    return Tools(cast("PointKeeper", keeper), client, folder_of)


def run(tools: Tools, job: ConnectorJob) -> Outcome:
    outcome = Work(job, tools).run()
    assert outcome is not None
    assert outcome.epoch == job.epoch
    return outcome


def verdicts(outcome: Outcome) -> dict[PointId, PointVerdict]:
    return {each.point: each.verdict for each in outcome.points}


def code(outcome: Outcome) -> str | None:
    return outcome.problem.code if outcome.problem else None


# Each kind


def test_verify(tools: Tools, keeper: FakeKeeper) -> None:
    outcome = run(tools, a_job(JobKind.VERIFY, *POINTS[:2]))
    assert outcome.result is JobResult.COMPLETED
    assert verdicts(outcome) == dict.fromkeys(POINTS[:2], PointVerdict.DONE)
    assert (outcome.progress.done_bytes, outcome.progress.total_bytes, outcome.progress.counter) == (200, 200, 202)
    assert keeper.done == [("verify", point) for point in POINTS[:2]]


def test_verify_of_a_sample_is_the_same_one_at_every_attempt(tools: Tools, keeper: FakeKeeper) -> None:
    job = a_job(JobKind.VERIFY, POINTS[0], sample_percent=2.5)
    for epoch in (1, 2):
        assert run(tools, job.model_copy(update={"epoch": epoch})).progress.total_bytes == 7
    assert keeper.done == [("verify", POINTS[0], Sample(2.5, job.job.bytes))] * 2


def test_recover(tools: Tools, keeper: FakeKeeper) -> None:
    job = a_job(JobKind.RECOVER, POINTS[0], to="vault")
    assert run(tools, job).result is JobResult.COMPLETED
    assert keeper.done == [("recover", POINTS[0], ROOT, job.job)]


@pytest.mark.parametrize("preserved", [True, False])
def test_preserve(tools: Tools, keeper: FakeKeeper, preserved: bool) -> None:
    outcome = run(tools, a_job(JobKind.PRESERVE, POINTS[0], preserved=preserved))
    assert verdicts(outcome) == {POINTS[0]: PointVerdict.DONE}
    assert keeper.done == [("preserve", POINTS[0], preserved)]


def test_expire_says_what_became_of_each(tools: Tools, keeper: FakeKeeper) -> None:
    keeper.errors = {
        POINTS[1]: PointKept(point="", why="it is young", until=UNTIL),
        POINTS[2]: PointBusy(point="", doing="verified"),
        POINTS[3]: PointUnknown(point=""),
    }
    outcome = run(tools, a_job(JobKind.EXPIRE, *POINTS))
    assert (outcome.result, outcome.problem) == (JobResult.COMPLETED, None)
    assert list(verdicts(outcome).values()) == ["done", "kept", "busy", "unknown"]
    assert [each.kept_until for each in outcome.points] == [None, UNTIL, None, None]
    assert outcome.progress.counter == 4


def test_index_states_the_whole_catalogue_in_pages(tools: Tools, keeper: FakeKeeper, client: FakeNodeClient) -> None:
    keeper.held = [a_fact(number) for number in range(MAX_POINTS + 3)]
    outcome = run(tools, a_job(JobKind.INDEX))
    assert (outcome.result, outcome.progress.counter) == (JobResult.COMPLETED, MAX_POINTS + 3)
    assert client.stated == keeper.held


# What goes wrong


def test_index_without_a_control_plane_may_be_tried_again(
    tools: Tools, keeper: FakeKeeper, client: FakeNodeClient
) -> None:
    keeper.held, client.refusal = [a_fact(1)], UNREACHABLE
    outcome = run(tools, a_job(JobKind.INDEX))
    assert (outcome.result, code(outcome)) == (JobResult.FAILED, UNREACHABLE.code)
    assert outcome.problem
    assert not outcome.problem.permanent


def test_a_snapshot_that_cannot_be_removed_fails_the_job_for_now(tools: Tools, keeper: FakeKeeper) -> None:
    keeper.errors = {POINTS[1]: ExpiryFailed(point="p", problem="canary path")}
    outcome = run(tools, a_job(JobKind.EXPIRE, *POINTS[:3]))
    assert (outcome.result, code(outcome)) == (JobResult.FAILED, "point.expiry-failed")
    assert outcome.problem
    assert not outcome.problem.permanent
    assert verdicts(outcome) == {POINTS[0]: PointVerdict.DONE, POINTS[2]: PointVerdict.DONE}
    assert "canary" not in outcome.model_dump_json()


def test_a_clock_that_jumped_is_seen_by_operators(tools: Tools, keeper: FakeKeeper) -> None:
    keeper.errors = dict.fromkeys(POINTS, ClockJumped(now="", seen="", path=""))
    outcome = run(tools, a_job(JobKind.EXPIRE, *POINTS))
    assert (outcome.result, code(outcome)) == (JobResult.FAILED, "clock.jumped")
    assert set(verdicts(outcome).values()) == {PointVerdict.KEPT}


@pytest.mark.parametrize(
    ("error", "expected", "permanent", "verdict"),
    [
        (PointDamaged(point="p", blocks=2, marked=2, where=f"disk d: 2 at {1 << 41}"), "point.damaged", True, None),
        (PointUnknown(point="p"), "point.unknown", True, PointVerdict.UNKNOWN),
        (PointBusy(point="p", doing="removed"), "point.busy", False, PointVerdict.BUSY),
        (OSError(28, "No space left on device", "/canary"), "target.io", False, None),
        (ZeroDivisionError("canary"), "connector.fault", True, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_error_crosses_as_its_code(
    tools: Tools, keeper: FakeKeeper, error: Exception, expected: str, permanent: bool, verdict: PointVerdict | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    keeper.errors = {POINTS[0]: error}
    outcome = run(tools, a_job(JobKind.VERIFY, *POINTS[:2]))
    assert outcome.result is JobResult.FAILED
    assert outcome.problem
    assert (outcome.problem.code, outcome.problem.permanent) == (expected, permanent)
    assert verdicts(outcome).get(POINTS[0]) is verdict
    assert verdicts(outcome)[POINTS[1]] is PointVerdict.DONE
    text = outcome.model_dump_json()
    assert "canary" not in text
    assert str(1 << 41) not in text
    assert outcome.problem.correlation in capsys.readouterr().out


def test_only_a_known_alias_is_recovered_to(tools: Tools, keeper: FakeKeeper) -> None:
    outcome = run(tools, a_job(JobKind.RECOVER, POINTS[0], to="elsewhere"))
    assert (outcome.result, code(outcome)) == (JobResult.FAILED, "alias.unknown")
    assert keeper.done == []


@pytest.mark.parametrize("kind", [JobKind.RECOVER, JobKind.PRESERVE])
def test_a_job_that_lacks_what_it_needs(tools: Tools, keeper: FakeKeeper, kind: JobKind) -> None:
    outcome = run(tools, a_job(kind, POINTS[0]))
    assert (outcome.result, code(outcome)) == (JobResult.FAILED, JobMalformed.code)
    assert keeper.done == []


# Stopped


def reply(*, cancel: bool) -> HeartbeatReply:
    return HeartbeatReply(cancel=cancel, limit=NO_LIMIT, site_limit=NO_LIMIT)


def test_a_cancelled_job_ends_at_its_next_step(tools: Tools, keeper: FakeKeeper) -> None:
    work = Work(a_job(JobKind.VERIFY, *POINTS), tools)
    work.directed(reply(cancel=False))
    keeper.between = lambda: work.directed(reply(cancel=True))
    outcome = work.run()
    assert outcome is not None
    assert (outcome.result, outcome.problem, outcome.points) == (JobResult.CANCELLED, None, ())
    assert JobCancelled(job="x").code == "job.cancelled"


def test_what_is_left_says_nothing(tools: Tools, keeper: FakeKeeper) -> None:
    work = Work(a_job(JobKind.VERIFY, *POINTS), tools)
    keeper.between = work.lost
    assert work.run() is None


def test_what_fails_because_it_is_left_says_nothing(tools: Tools, keeper: FakeKeeper, client: FakeNodeClient) -> None:
    keeper.held, client.refusal = [a_fact(1)], UNREACHABLE
    work = Work(a_job(JobKind.INDEX), tools)
    work.lost()
    assert work.run() is None


def test_a_retry_is_a_job_of_its_own(tools: Tools, keeper: FakeKeeper) -> None:
    job = a_job(JobKind.EXPIRE, POINTS[0])
    run(tools, job)
    keeper.errors = {POINTS[0]: PointUnknown(point="")}
    assert verdicts(run(tools, job.model_copy(update={"epoch": 2}))) == {POINTS[0]: PointVerdict.UNKNOWN}
