"""Cycles that never run: progress, reports and jobs as the command line is given them."""

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from dmcore.api.jobs import Job
from dmcore.appliance.progress import CycleProgress, CycleReport, DiskStats
from dmcore.model.enums import Consistency, Reason, Rung, Stage
from dmcore.model.ids import CycleId, DiskId, GroupId, PlanId, PointId, point_id

PLAN, GROUP, CYCLE = PlanId(UUID(int=1)), GroupId(UUID(int=2)), CycleId(UUID(int=3))
POINT: PointId = point_id(CYCLE, GROUP)

JOB = Job(
    job=UUID(int=4), ticket="a.b.c", plan=PLAN, group=GROUP, cycle=CYCLE, epoch=1, connector="0" * 64,
    machines=("vm1",), source="machines", target="shadows",
)  # fmt: skip


def stats(number: int = 0, **counters: Any) -> DiskStats:
    made = DiskStats(DiskId(UUID(int=10 + number)), "vm1", f"d{number}.img", 64 << 20, Rung.DELTA, Reason.TRACKED)
    return replace(made, **counters)


def progress(stage: Stage, *disks: DiskStats, **counters: Any) -> CycleProgress:
    return CycleProgress(stage, {disk.disk: disk for disk in disks}, **counters)


def report(*disks: DiskStats) -> CycleReport:
    taken = datetime(2026, 3, 1, tzinfo=UTC)
    return CycleReport(PLAN, GROUP, CYCLE, POINT, taken, Consistency.CRASH, disks, {Stage.TRANSFER: 1.25})
