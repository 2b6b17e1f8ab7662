import json
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from dmcore.api.jobs import Job
from dmcore.appliance.cycle import Cycle
from dmcore.appliance.errors import Cancelled, ConnectorBusy
from dmcore.appliance.progress import CycleProgress, CycleReport
from dmctl.follow import follow_folder, next_job, run_file
from dmctl.running import Runner
from dmctl.stopping import Stop
from dmctl.views import ReportView
from tests.dmctl.cycles import JOB, report, stats

Work = Callable[[Job], CycleReport]


@pytest.fixture
def stop() -> Iterator[Stop]:
    with Stop() as entered:
        yield entered


def runner(stop: Stop, work: Work) -> Runner:
    def run(job: Job, progress: CycleProgress, started: Callable[[Cycle], None]) -> CycleReport:
        return work(job)

    return Runner(run, ReportView(), stop)


def put(folder: Path, name: str, content: str | None = None) -> Path:
    path = folder / name
    path.write_text(json.dumps({**JOB.model_dump(mode="json"), "ticket": JOB.ticket}) if content is None else content)
    return path


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def done(job: Job) -> CycleReport:
    return report(stats())


def test_a_job_that_is_done_lies_beside_its_report(tmp_path: Path, stop: Stop) -> None:
    run_file(put(tmp_path, "7.json"), runner(stop, done), as_json=False)
    assert files(tmp_path) == ["done/7.json", "done/7.report.json"]
    assert json.loads((tmp_path / "done" / "7.report.json").read_text()) == report(stats()).as_dict()


def test_a_job_that_failed_lies_beside_its_error(
    tmp_path: Path, stop: Stop, capsys: pytest.CaptureFixture[str]
) -> None:
    def busy(job: Job) -> CycleReport:
        raise ConnectorBusy(group="g")

    run_file(put(tmp_path, "7.json"), runner(stop, busy), as_json=True)
    assert files(tmp_path) == ["failed/7.error.json", "failed/7.json"]
    error = json.loads((tmp_path / "failed" / "7.error.json").read_text())
    assert (error["code"], error["exit_code"], error["permanent"]) == ("cycle.connector-busy", 10, False)
    assert json.loads(capsys.readouterr().err) == {"error": error}


def test_a_file_that_is_no_job_does_not_stop_the_others(tmp_path: Path, stop: Stop) -> None:
    run_file(put(tmp_path, "7.json", "nonsense"), runner(stop, done), as_json=False)
    assert files(tmp_path) == ["failed/7.error.json", "failed/7.json"]
    assert json.loads((tmp_path / "failed" / "7.error.json").read_text())["code"] == "job.unreadable"


def test_a_fault_of_ours_does_not_stop_the_others(tmp_path: Path, stop: Stop) -> None:
    def fault(job: Job) -> CycleReport:
        raise ZeroDivisionError

    run_file(put(tmp_path, "7.json"), runner(stop, fault), as_json=False)
    assert json.loads((tmp_path / "failed" / "7.error.json").read_text())["code"] == "internal"


def test_a_job_that_was_stopped_stays(tmp_path: Path, stop: Stop) -> None:
    def stopped(job: Job) -> CycleReport:
        raise Cancelled(problem="stopped on request")

    path = put(tmp_path, "7.json")
    signal.raise_signal(signal.SIGTERM)
    run_file(path, runner(stop, stopped), as_json=False)
    assert files(tmp_path) == ["7.json"]


def test_jobs_are_taken_by_name_and_none_that_is_being_written(tmp_path: Path) -> None:
    assert next_job(tmp_path) is None
    (tmp_path / "dir.json").mkdir()
    put(tmp_path, ".1.json")
    put(tmp_path, "1.json.tmp")
    assert next_job(tmp_path) is None
    put(tmp_path, "10.json")
    put(tmp_path, "02.json")
    assert next_job(tmp_path) == tmp_path / "02.json"


def test_it_goes_on_until_it_is_stopped(tmp_path: Path, stop: Stop) -> None:
    """A second job comes while the first one runs; then, with nothing to do, somebody asks to stop."""

    def first_brings_second(job: Job) -> CycleReport:
        if not (tmp_path / "done").exists():
            put(tmp_path, "2.json")
        else:
            signal.pthread_kill(main, signal.SIGTERM)
        return report(stats())

    main = threading.main_thread().ident or 0
    put(tmp_path, "1.json")
    follow_folder(tmp_path, runner(stop, first_brings_second), as_json=False)
    assert files(tmp_path) == ["done/1.json", "done/1.report.json", "done/2.json", "done/2.report.json"]


def test_it_waits_when_there_is_nothing_to_do(tmp_path: Path, stop: Stop, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []

    def wait(timeout_s: float | None = None) -> bool:
        waited.append(timeout_s)
        signal.raise_signal(signal.SIGTERM)
        return True

    monkeypatch.setattr(stop, "wait", wait)
    follow_folder(tmp_path, runner(stop, done), as_json=False)
    assert waited == [0.5]


def test_an_outcome_that_cannot_be_written_ends_it(tmp_path: Path, stop: Stop) -> None:
    """Else the same job would be run for ever."""
    put(tmp_path, "7.json")
    (tmp_path / "done").write_text("not a directory")
    with pytest.raises(OSError, match="done"):
        follow_folder(tmp_path, runner(stop, done), as_json=False)
    assert (tmp_path / "7.json").exists()
