"""How points are listed, and one is shown."""

from collections.abc import Mapping
from datetime import datetime

from dmcore.api.points import PointJob, PointShown, PointsReply, PointView
from dmcore.model.ids import PlanId
from dmctl.output import NOTHING, age, moment, print_pairs, print_table, short_ids


def show_points(found: PointsReply, plans: Mapping[PlanId, str], now: datetime) -> None:
    """A row a point."""
    ids = short_ids([str(each.id) for each in found.points])
    columns = ["point", "plan", "source time", "age", "state", "disks", "rung", "verified", "kept"]
    rows = [[ids[str(each.id)], plans.get(each.plan, str(each.plan)[:8]), *_row(each, now)] for each in found.points]
    more = ", and older ones" if found.more else ""
    print_table(f"Recovery points: {len(rows)}{more}", columns, rows, ["age", "disks", "verified"])


def _row(each: PointView, now: datetime) -> list[str]:
    disks = str(each.disks) + (f" (-{each.lacking})" if each.lacking else "")
    kept = "preserved" if each.preserved else ""
    verified = NOTHING if each.verified_at is None else f"{age(each.verified_at, now)} ago"
    rungs = ", ".join(each.rungs)
    return [moment(each.source_time), age(each.source_time, now), each.state, disks, rungs, verified, kept]


def show_point(each: PointShown, now: datetime) -> None:
    """All of it."""
    print_pairs(
        {
            "point": each.id,
            "source time": moment(each.source_time),
            "state": each.state,
            "consistency": each.consistency,
            "plan": each.plan,
            "group": each.group,
            "cycle": each.cycle,
            "connector": each.connector,
            "disks": each.disks,
            "lacking": f"{each.lacking} disks of the group" if each.lacking else NOTHING,
            "rungs": ", ".join(each.rungs) or NOTHING,
            "preserved": "yes" if each.preserved else "no",
            "verified": moment(each.verified_at),
        }
    )
    if each.jobs:
        ids = short_ids([str(job.job) for job in each.jobs])
        rows = [[ids[str(job.job)], *_job_row(job, now)] for job in each.jobs]
        print_table(f"\nJobs: {len(rows)}", ["job", "kind", "to", "asked", "state", "result"], rows, ["asked"])


def _job_row(job: PointJob, now: datetime) -> list[str]:
    result = job.problem or job.verdict or NOTHING
    return [job.kind, job.to or NOTHING, f"{age(job.due_at, now)} ago", job.state, result]
