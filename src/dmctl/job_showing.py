"""How jobs are listed, and one is shown."""

from datetime import datetime

from dmcore.api.jobs import DiskTotals, JobsReply, JobView
from dmctl.job_texts import amount, doing, ended, problem_code, took_s, untracked_bytes
from dmctl.output import NOTHING, age, moment, print_pairs, print_table, short_ids, size, span

TOTALS = ("read", "changed", "zero", "sealed", "wire", "resumed")


def show_jobs(found: JobsReply, now: datetime) -> None:
    """A row a job."""
    ids = short_ids([str(job.id) for job in found.jobs])
    columns = ["job", "kind", "plan", "machines", "due", "took", "state", "result"]
    rows = [[ids[str(job.id)], *_row(job, now)] for job in found.jobs]
    more = ", and older ones" if found.more else ""
    print_table(f"Jobs: {len(rows)}{more}", columns, rows, ["due", "took"])


def _row(job: JobView, now: datetime) -> list[str]:
    due = f"{age(job.due_at, now)} ago" if job.due_at <= now else f"in {span((job.due_at - now).total_seconds())}"
    machines = ", ".join(job.machines) or NOTHING
    return [job.kind, job.plan_name or NOTHING, machines, due, span(took_s(job)), doing(job), _short_result(job)]


def _short_result(job: JobView) -> str:
    if not ended(job):
        return amount(job) or NOTHING
    if job.problem:
        return problem_code(job)
    verdicts = ", ".join(sorted({point.verdict for point in job.points}))
    point = f"point {str(job.point)[:8]}" if job.point else ""
    place = f"to {job.to}" if job.to else ""
    return " ".join(filter(None, (point, place, verdicts))) or NOTHING


def show_job(job: JobView) -> None:
    """All of it."""
    problem = job.problem
    print_pairs(
        {
            "job": job.id,
            "kind": job.kind,
            "plan": job.plan_name or job.plan or NOTHING,
            "machines": ", ".join(job.machines) or NOTHING,
            "state": ", ".join(filter(None, (doing(job), "" if ended(job) else amount(job)))),
            "node": job.node or NOTHING,
            "cycle": job.cycle or NOTHING,
            "epoch": job.epoch,
            "attempts": job.attempts,
            "due": moment(job.due_at),
            "started": moment(job.started_at),
            "ended": moment(job.ended_at),
            "stages": ", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in job.seconds.items()) or NOTHING,
            "point": job.point or NOTHING,
            "to": job.to or NOTHING,
            "source time": moment(job.source_time),
            "points": ", ".join(f"{each.point} {each.verdict}" for each in job.points) or NOTHING,
            "problem": f"{problem.code}, correlation {problem.correlation}" if problem else NOTHING,
            "sample": NOTHING if job.sample_percent is None else f"{job.sample_percent:.3g}%",
            "against source": _against_source(job),
            "by itself": "yes, while there was no control plane" if job.offline else "no",
        }
    )
    if job.progress.disks:
        rows = [_disk_row(disk) for disk in job.progress.disks]
        print_table(f"\nDisks: {len(rows)}", ["disk", "rung", "reason", *TOTALS, "untracked"], rows, TOTALS)


def _against_source(job: JobView) -> str:
    if not job.against_source:
        return "no"
    missed = untracked_bytes(job)
    return f"yes; its tracking has missed {size(missed)}" if missed else "yes"


def _disk_row(disk: DiskTotals) -> list[str]:
    untracked = NOTHING if disk.untracked_bytes is None else size(disk.untracked_bytes)
    totals = [size(getattr(disk, f"{name}_bytes")) for name in TOTALS]
    return [str(disk.disk)[:8], disk.rung, disk.reason, *totals, untracked]
