"""What an appliance must not forget, over restarts, damage and full disks."""

from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
import structlog

from dmcore.api.limits import NO_LIMIT
from dmcore.api.nodes import AssignedPlans, OfflineCycle
from dmcore.appliance import offline_state
from dmcore.appliance.offline import GroupRecord
from dmcore.appliance.offline_state import MAX_REPORTED_DISKS, OfflineState
from dmcore.model.ids import CycleId
from tests.appliance.test_offline import NOW, group_of, outcome, record
from tests.node.test_control_client import many_disks


def plans(*known: GroupRecord) -> AssignedPlans:
    return AssignedPlans(version=3, site_limit=NO_LIMIT, groups=tuple(map(group_of, known)))


def report(known: GroupRecord, number: int = 1, **changes: object) -> OfflineCycle:
    made = OfflineCycle(
        plan=known.job.plan, group=known.job.group, base_cycle=known.job.cycle, successor=number, started_at=NOW,
        ended_at=NOW, outcome=outcome(),
    )  # fmt: skip
    return made.model_copy(update=changes)


def test_nothing_is_there_at_first(tmp_path: Path) -> None:
    state = OfflineState(tmp_path)
    assert (state.plans, state.records(), state.reports()) == (None, [], [])


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    state, first, second = OfflineState(tmp_path), record(), record(successor=2)
    state.keep_plans(plans(first, second))
    for each in (first, second):
        state.keep_record(each)
    state.keep_report(report(second, 2))
    state.keep_report(report(second, 1))
    again = OfflineState(tmp_path)
    assert again.plans == plans(first, second)
    assert again.record(first.job.group) == first
    assert {each.job.group: each for each in again.records()} == {each.job.group: each for each in (first, second)}
    assert [each.successor for each in again.reports()] == [1, 2]


def test_files_are_their_owners_only(tmp_path: Path) -> None:
    OfflineState(tmp_path).keep_record(record())
    (path,) = (tmp_path / "control" / "leases").iterdir()
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_group_without_a_plan_is_forgotten_unless_its_snapshot_is_left(tmp_path: Path) -> None:
    state, gone, left = OfflineState(tmp_path), record(), record(snapshot_left=True)
    for each in (gone, left):
        state.keep_record(each)
    state.keep_plans(plans())
    assert state.records() == OfflineState(tmp_path).records() == [left]


def test_a_no_outlasts_a_restart_until_it_is_taken_back(tmp_path: Path) -> None:
    state = OfflineState(tmp_path)
    assert not state.denied
    for denied in (True, True, False, False):
        state.keep_denied(denied)
        assert state.denied is OfflineState(tmp_path).denied is denied


def test_reports_go_when_they_were_taken(tmp_path: Path) -> None:
    state, known = OfflineState(tmp_path), record()
    taken, replaced = report(known, 1), report(known, 2)
    state.keep_report(taken)
    state.keep_report(replaced)
    newer = report(known, 2, ended_at=NOW + timedelta(seconds=5))
    state.keep_report(newer)
    state.forget_reports([taken, replaced])  # what was sent is not what is kept now
    assert state.reports() == OfflineState(tmp_path).reports() == [newer]


@pytest.mark.parametrize("content", [b"", b"{}", b'{"ticket": "secret.text.here"}', b"\xff"])
def test_what_cannot_be_read_is_told_of_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "control" / "leases" / f"{uuid4()}.json"
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        assert OfflineState(tmp_path).records() == []
    assert [entry["path"] for entry in logs] == [str(path)]
    assert "secret" not in str(logs)
    assert path.read_bytes() == content


def test_a_full_disk_costs_only_the_memory_of_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(offline_state, "replace_file", full)
    state, known = OfflineState(tmp_path), record()
    with structlog.testing.capture_logs() as logs:
        state.keep_record(known)
        state.keep_report(report(known))
        state.keep_plans(plans(known))
    assert [entry["event"] for entry in logs] == ["not durable"] * 3
    assert (state.record(known.job.group), len(state.reports())) == (known, 1)
    state.forget_reports(state.reports())
    assert state.reports() == []


def test_groups_of_one_state_do_not_mix(tmp_path: Path) -> None:
    state, first = OfflineState(tmp_path), record()
    state.keep_record(first)
    newer = first.model_copy(update={"job": first.job.model_copy(update={"cycle": CycleId(uuid4())})})
    state.keep_record(newer)
    assert state.records() == OfflineState(tmp_path).records() == [newer]


def test_what_cannot_be_removed_ends_nothing(tmp_path: Path) -> None:
    """A file system that went read-only, say: the thread that talks to the control plane would end."""
    state, known = OfflineState(tmp_path), record()
    state.keep_record(known)
    state.keep_report(report(known))
    state.keep_denied(True)
    for path in [path for path in (tmp_path / "control").rglob("*") if path.is_file()]:
        path.unlink()
        (path / "in the way").mkdir(parents=True)
    with structlog.testing.capture_logs() as logs:
        state.forget_reports(state.reports())
        state.keep_denied(False)
        state.keep_plans(plans())
    assert [entry["event"] for entry in logs] == ["cannot be removed"] * 3
    assert (state.reports(), state.records(), state.denied) == ([], [], False)


def test_the_same_plans_are_not_written_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, known = OfflineState(tmp_path), record()
    state.keep_plans(plans(known))
    monkeypatch.setattr(offline_state, "replace_file", lambda *_: pytest.fail("written again"))
    state.keep_plans(plans(known))
    assert state.plans == plans(known)


def test_groups_that_are_in_no_plan_do_not_fill_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_state, "MAX_RECORDS", 3)
    state, ours = OfflineState(tmp_path), record(started_at=NOW - timedelta(days=9))
    state.keep_plans(plans(ours))
    state.keep_record(ours)
    invented = [record(started_at=NOW + timedelta(seconds=number)) for number in range(5)]
    for each in invented:
        state.keep_record(each)
    state.keep_record(invented[-1])  # not one more
    for found in (state, OfflineState(tmp_path)):
        assert {kept.job.group for kept in found.records()} == {kept.job.group for kept in (ours, *invented[-2:])}


def test_a_plan_for_every_group_there_is_room_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_state, "MAX_RECORDS", 2)
    state, known = OfflineState(tmp_path), [record() for _ in range(3)]
    state.keep_plans(plans(*known))
    for each in known:
        state.keep_record(each)
    assert len(state.records()) == 3


def test_reports_do_not_grow_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(offline_state, "MAX_REPORTS", 3)
    state, known = OfflineState(tmp_path), record()
    with structlog.testing.capture_logs() as logs:
        for number in range(1, 6):
            state.keep_report(report(known, number, started_at=NOW + timedelta(hours=number)))
    state.keep_report(report(known, 5, started_at=NOW))
    for each in (state, OfflineState(tmp_path)):
        assert ([kept.successor for kept in each.reports()], each.unreported) == ([3, 4, 5], 3)
    assert len(logs) == 2


def test_of_many_disks_the_totals_wait_to_be_told(tmp_path: Path) -> None:
    state, known = OfflineState(tmp_path), record()
    for number, disks in ((1, MAX_REPORTED_DISKS), (2, MAX_REPORTED_DISKS + 1)):
        state.keep_report(report(known, number, outcome=outcome(progress=many_disks(disks))))
    for each in (state, OfflineState(tmp_path)):
        progress = [kept.outcome.progress for kept in each.reports()]
        assert [len(kept.disks) for kept in progress] == [MAX_REPORTED_DISKS, 0]
        assert progress[0].done_bytes == progress[1].done_bytes
    state.forget_reports(state.reports())
    assert state.reports() == []


def test_reports_of_a_group_are_in_order_whatever_its_clock_did(tmp_path: Path) -> None:
    state, known = OfflineState(tmp_path), record()
    for number in (1, 2, 3):
        state.keep_report(report(known, number, started_at=NOW - timedelta(hours=number)))
    assert [each.successor for each in state.reports()] == [1, 2, 3]


def test_nobody_tells_of_a_report_that_is_not_durable_yet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state, known, seen = OfflineState(tmp_path), record(), []
    monkeypatch.setattr(offline_state, "replace_file", lambda *_: seen.append((state.reports(), state.records())))
    state.keep_report(report(known))
    state.keep_record(known)
    assert seen == [([], []), (state.reports(), [])]
