from pathlib import Path
from uuid import uuid4

import pytest
from structlog.testing import capture_logs

from dmcore.api.jobs import Progress
from dmcore.host.files import replace_file
from dmcore.node import outcomes
from dmcore.node.outcomes import OutcomeBox
from tests.node.control_kit import completed
from tests.node.test_control_client import many_disks


def test_outcomes_outlive_the_process_in_the_order_of_their_epochs(tmp_path: Path) -> None:
    box, jobs = OutcomeBox(tmp_path), [uuid4() for _ in range(3)]
    for job, epoch in zip(jobs, (7, 12, 9), strict=True):
        box.put(job, completed(epoch, progress=Progress(counter=epoch)))
    assert [each.outcome.epoch for each in box.all()] == [7, 12, 9]
    again = OutcomeBox(tmp_path)
    assert [(each.job, each.outcome.epoch) for each in again.all()] == [(jobs[0], 7), (jobs[2], 9), (jobs[1], 12)]
    assert again.all()[0].outcome.progress.counter == 7
    again.remove(again.all()[0])
    assert [each.outcome.epoch for each in OutcomeBox(tmp_path).all()] == [9, 12]


def test_two_attempts_at_a_job_are_two_outcomes(tmp_path: Path) -> None:
    box, job = OutcomeBox(tmp_path), uuid4()
    box.put(job, completed(1))
    box.put(job, completed(2))
    box.put(job, completed(2))
    assert [each.outcome.epoch for each in OutcomeBox(tmp_path).all()] == [1, 2]


def test_disks_are_not_kept_and_totals_are(tmp_path: Path) -> None:
    OutcomeBox(tmp_path).put(uuid4(), completed(progress=many_disks()))
    [kept] = OutcomeBox(tmp_path).all()
    assert (kept.outcome.progress.disks, kept.outcome.progress.done_bytes) == ((), 9)


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * (2 << 20)], ids=["empty", "other", "long"])
def test_a_file_that_is_none_is_told_of_and_stays(tmp_path: Path, content: bytes) -> None:
    OutcomeBox(tmp_path).put(uuid4(), completed())
    broken = tmp_path / "control" / "outcomes" / "broken.json"
    broken.write_bytes(content)
    with capture_logs() as logs:
        assert len(OutcomeBox(tmp_path).all()) == 1
    assert [each["path"] for each in logs] == [str(broken)]
    assert broken.exists()


def test_what_cannot_be_written_is_kept_in_memory(tmp_path: Path) -> None:
    (tmp_path / "control").write_text("in the way")
    box = OutcomeBox(tmp_path)
    with capture_logs() as logs:
        box.put(uuid4(), completed())
        [kept] = box.all()
        box.remove(kept)
    assert [each["event"] for each in logs] == ["outcome is not durable", "outcome's file stays"]
    assert box.all() == []


def test_nobody_tells_of_what_is_not_durable_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who told it at once would remove its file before it is written, and the next process would tell it again."""
    box, seen = OutcomeBox(tmp_path), []

    def write(path: Path, data: bytes) -> None:
        seen.append(box.all())
        replace_file(path, data)

    monkeypatch.setattr(outcomes, "replace_file", write)
    box.put(uuid4(), completed())
    assert seen == [[]]
    assert len(box.all()) == 1


def test_one_that_was_replaced_while_it_was_told_stays(tmp_path: Path) -> None:
    box, job = OutcomeBox(tmp_path), uuid4()
    box.put(job, completed(1, progress=Progress(counter=1)))
    [told] = box.all()
    box.put(job, completed(1, progress=Progress(counter=2)))
    assert not box.holds(told)
    box.remove(told)
    for each in (box, OutcomeBox(tmp_path)):
        assert [waiting.outcome.progress.counter for waiting in each.all()] == [2]
