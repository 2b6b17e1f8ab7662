import io
import json
from typing import Any
from uuid import UUID

import pytest
from rich.console import Console

from dmcore.api.base import Problem
from dmcore.api.jobs import DiskTotals, JobView
from dmcore.model.enums import Reason, Rung, Stage
from dmcore.model.ids import DiskId
from dmcore.model.jobs import JobKind, JobState
from dmctl.job_views import LINE_S, BarsView, EventsView, LinesView, make_jobs_view
from tests.dmctl.facts import CONNECTOR, a_job, completed, running


class FakeClock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def terminal(width: int = 100, height: int = 40) -> Console:
    return Console(
        file=io.StringIO(), force_terminal=True, width=width, height=height, color_system=None, legacy_windows=False
    )


def drawn(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def shown(*jobs: JobView, **size: int) -> list[str]:
    """What stands on a terminal in the end."""
    console = terminal(**size)
    view = BarsView(console)
    view.show(jobs)
    view.rest()
    view.rest()
    last = drawn(console).replace("\x1b[?25h", "").rsplit("\x1b[2K", 1)[1]
    return [line.rstrip() for line in last.splitlines()]


def disk(number: int, **totals: int) -> DiskTotals:
    return DiskTotals(disk=DiskId(UUID(f"d{number:x}" * 16)), rung=Rung.DELTA, reason=Reason.TRACKED, **totals)


def moving(job: JobView | None = None, **more: Any) -> JobView:
    disks = (disk(1, read_bytes=1_000_000, to_read_bytes=4_000_000), disk(2, read_bytes=9, to_read_bytes=9))
    facts = {"stage": Stage.TRANSFER, "done_bytes": 1_000_009, "total_bytes": 4_000_009, "disks": disks} | more
    made = running(job or a_job(), **facts)
    return made.model_copy(update={"rate_bytes_s": 1_500_000.0, "eta_s": 2.0})


class TestBars:
    def test_a_line_a_job_and_a_bar_a_disk(self) -> None:
        line, first, second = shown(moving())
        assert line == "cycle of web (web1): transfer, 1.0 MB of 4.0 MB read, 1.5 MB/s, 2 s to go"
        assert first.split()[:3] == ["disk", "d1d1d1d1", "delta"]
        assert first.endswith("1.0 MB of 4.0 MB")
        assert second.endswith("9 B of 9 B")

    def test_what_the_connector_applies_has_one_too(self) -> None:
        *_, last = shown(moving(stage=Stage.COMMIT, applied_bytes=500, to_apply_bytes=1000))
        assert last.split()[0] == "apply"

    def test_what_a_connector_does_has_one(self) -> None:
        job = running(a_job(kind=JobKind.VERIFY), done_bytes=500, total_bytes=1000)
        line, bar = shown(job)
        assert line == "verify of web (web1): running, 500 B of 1.0 kB done"
        assert bar.split()[0] == "done"

    def test_several_jobs_are_in_one_view_those_that_run_first(self) -> None:
        problem = Problem(code="source.changed", permanent=True, correlation="ab" * 16)
        failed = completed(a_job(plan_name="f"), state=JobState.FAILED, problem=problem)
        jobs = [completed(a_job(plan_name="d")), failed, a_job(plan_name="w"), moving(a_job(plan_name="r"))]
        lines = [line for line in shown(*jobs) if not line.startswith(" ")]
        assert [line.split()[2] for line in lines] == ["r", "w", "f", "d"]
        assert lines[2:] == ["cycle of f (web1): it failed with source.changed", "cycle of d (web1): done in 12.0 s"]

    def test_what_does_not_fit_is_counted(self) -> None:
        lines = shown(*(moving() for _ in range(5)), height=12)
        assert len(lines) == 7
        assert lines[-1] == "and 3 more jobs"
        assert shown(moving(), height=3) == ["and 1 more job"]

    @pytest.mark.parametrize("width", [20, 40, 80])
    def test_a_narrow_terminal_has_a_line_a_line(self, width: int) -> None:
        lines = shown(moving(a_job(machines=tuple(f"a-machine-{n}" for n in range(9)))), width=width)
        assert len(lines) == 3
        assert all(len(line) <= width for line in lines)

    def test_the_next_look_draws_over_the_last(self) -> None:
        console = terminal()
        view = BarsView(console)
        view.show([a_job()])
        view.show([a_job()])
        view.rest()
        assert "\x1b[1A" in drawn(console) or "\x1b[2K" in drawn(console)

    def test_what_a_name_holds_does_not_steer_the_terminal(self) -> None:
        job = a_job().model_copy(update={"plan_name": "w\x1b[2Jb"})
        assert shown(job) == ["cycle of w?[2Jb (web1): queued"]


class TestLines:
    def test_a_line_when_there_is_news_and_now_and_then(self, capsys: pytest.CaptureFixture[str]) -> None:
        clock, job = FakeClock(), a_job()
        view = LinesView(Console(width=1000), clock)
        view.show([job])
        view.show([job])
        view.show([moving(job)])
        clock.now += LINE_S / 2
        view.show([moving(job, done_bytes=2_000_000)])
        clock.now += LINE_S
        view.show([moving(job, done_bytes=3_000_000)])
        for _ in range(2):
            view.show([completed(job)])
            clock.now += LINE_S
        view.rest()
        words = [line.split(" (web1): ")[1] for line in capsys.readouterr().out.splitlines()]
        assert words == [
            "queued",
            "transfer: 1.0 MB of 4.0 MB read, 1.5 MB/s, 2 s to go",
            "transfer: 3.0 MB of 4.0 MB read, 1.5 MB/s, 2 s to go",
            "done in 12.0 s",
        ]

    @pytest.mark.parametrize(
        ("job", "words"),
        [
            (a_job(attempts=2), "cycle of web (web1): queued again after 2 attempts"),
            (running(a_job(cancelling=True)), "cycle of web (web1): cancelling"),
            (a_job(state=JobState.LEASED), "cycle of web (web1): leased"),
            (running(a_job()), "cycle of web (web1): running"),
            (a_job(kind=JobKind.INDEX, node=CONNECTOR), "index of connector c0c0c0c0c0c0: queued"),
            (a_job(kind=JobKind.INDEX), "index of connector: queued"),
            (a_job(plan_name=None, machines=()), "cycle of a deleted plan: queued"),
            (a_job(machines=tuple("abcde")), "cycle of web (a, b, c and 2 more): queued"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_jobs_in_words(self, job: JobView, words: str, capsys: pytest.CaptureFixture[str]) -> None:
        LinesView(Console(width=1000)).show([job])
        assert capsys.readouterr().out == f"{str(job.id)[:8]} {words}\n"


def test_events_have_the_models_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    job, view = a_job(), EventsView()
    view.show([job])
    view.show([job])
    view.rest()
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"event": "progress", "job": job.model_dump(mode="json")}
    ]


def test_the_view_is_chosen_by_the_option_and_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(make_jobs_view(as_json=True), EventsView)
    assert isinstance(make_jobs_view(as_json=False), LinesView)
    monkeypatch.setattr("dmctl.job_views.stdout", terminal)
    assert isinstance(make_jobs_view(as_json=False), BarsView)
