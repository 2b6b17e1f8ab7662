"""How far a cycle is, for whoever watches."""

import json
from datetime import UTC, datetime
from uuid import UUID

import pytest

from dmcore.appliance.progress import CycleProgress, CycleReport, DiskStats
from dmcore.model.enums import Consistency, Reason, Rung, Stage
from dmcore.model.ids import CycleId, DiskId, GroupId, PlanId, PointId

DISK = DiskId(UUID(int=7))


def stats() -> DiskStats:
    return DiskStats(DISK, "vm", "a.img", 1 << 20, Rung.DELTA, Reason.TRACKED, read_bytes=10, seconds=0.5)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_stages_are_named_and_timed() -> None:
    clock = Clock()
    progress = CycleProgress(clock=clock)
    for seconds in (1.0, 2.0):
        with progress.during(Stage.TRANSFER):
            assert progress.stage is Stage.TRANSFER
            clock.now += seconds
    with progress.during(Stage.COMMIT):
        clock.now += 0.25
    assert progress.seconds == {Stage.TRANSFER: 3.0, Stage.COMMIT: 0.25}


def test_a_stage_that_fails_is_timed_too() -> None:
    clock = Clock()
    progress = CycleProgress(clock=clock)

    def fail() -> None:
        with progress.during(Stage.SNAPSHOT):
            clock.now += 4
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert progress.seconds == {Stage.SNAPSHOT: 4.0}
    assert progress.stage is Stage.SNAPSHOT


def test_progress_as_json() -> None:
    progress = CycleProgress(disks={DISK: stats()}, applied_bytes=3, to_apply_bytes=4)
    progress.seconds[Stage.SNAPSHOT] = 0.123456
    told = json.loads(json.dumps(progress.as_dict()))
    assert told["stage"] == "connecting"
    assert told["seconds"] == {"snapshot": 0.1235}
    assert (told["applied_bytes"], told["to_apply_bytes"]) == (3, 4)
    assert told["disks"] == [
        {
            "disk": str(DISK), "machine": "vm", "label": "a.img", "disk_bytes": 1 << 20, "rung": "delta",
            "reason": "tracked", "to_read_bytes": 0, "read_bytes": 10, "changed_bytes": 0, "data_bytes": 0,
            "zero_bytes": 0, "sealed_bytes": 0, "wire_bytes": 0, "resumed_bytes": 0, "untracked_bytes": None,
            "seconds": 0.5,
        }
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("source_time", "told"), [(datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"), (None, None)]
)
def test_report_as_json(source_time: datetime | None, told: str | None) -> None:
    report = CycleReport(
        PlanId(UUID(int=1)), GroupId(UUID(int=2)), CycleId(UUID(int=3)), PointId(UUID(int=4)), source_time,
        Consistency.CRASH, (stats(),), {Stage.TRANSFER: 1.00004},
    )  # fmt: skip
    as_json = json.loads(json.dumps(report.as_dict()))
    assert as_json["point"] == str(UUID(int=4))
    assert as_json["source_time"] == told
    assert as_json["seconds"] == {"transfer": 1.0}
    assert as_json["disks"][0]["label"] == "a.img"
