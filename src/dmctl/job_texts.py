"""Jobs in words."""

from typing import NamedTuple

from dmcore.api.jobs import JobView, PointVerdict
from dmcore.errors import ExitCode
from dmcore.model.enums import Stage
from dmcore.model.jobs import IN_FLIGHT, JobKind, JobState
from dmctl.codes import exit_code_of
from dmctl.output import size, span

SHORT = 8
SOME_MACHINES = 3

VERDICTS = {
    PointVerdict.KEPT: (ExitCode.REFUSED, "the connector's own retention keeps the point, whoever asks"),
    PointVerdict.BUSY: (ExitCode.BUSY, "the point is being verified or recovered"),
    PointVerdict.UNKNOWN: (ExitCode.REFUSED, "the connector has no such point"),
}


def ended(job: JobView) -> bool:
    """Whether nothing more will come of it."""
    return job.state not in IN_FLIGHT


def short_id(job: JobView) -> str:
    """Enough of its id to find it again, in all likelihood."""
    return str(job.id)[:SHORT]


def title(job: JobView) -> str:
    """Which job it is: `cycle of web (web1, web2)`."""
    if job.kind is JobKind.INDEX:
        return f"index of connector {(job.node or '')[:12]}".rstrip()
    shown = ", ".join(job.machines[:SOME_MACHINES])
    more = f" and {len(job.machines) - SOME_MACHINES} more" if len(job.machines) > SOME_MACHINES else ""
    machines = f" ({shown}{more})" if shown else ""
    return f"{job.kind} of {job.plan_name or 'a deleted plan'}{machines}"


def doing(job: JobView) -> str:
    """Where it is: `transfer`, `queued`, `cancelling`."""
    if job.cancelling and not ended(job):
        return "cancelling"
    if job.state is JobState.QUEUED and job.attempts:
        return f"queued again after {job.attempts} attempts"
    return job.progress.stage or job.state if job.state is JobState.RUNNING else job.state


def amount(job: JobView) -> str:
    """How far it is, or an empty text where nobody knows."""
    at = job.progress
    done, total, verb = at.done_bytes, at.total_bytes, "done"
    if job.kind is JobKind.CYCLE and at.stage is Stage.COMMIT:
        done, total, verb = at.applied_bytes, at.to_apply_bytes, "applied"
    elif job.kind is JobKind.CYCLE:
        verb = "read"
    parts = [f"{size(done)} of {size(total)} {verb}"] if total else []
    parts += [f"{size(int(job.rate_bytes_s))}/s"] if job.rate_bytes_s else []
    parts += [f"{span(job.eta_s)} to go"] if job.eta_s is not None else []
    return ", ".join(parts)


def took_s(job: JobView) -> float | None:
    """From its first start to its end."""
    return (job.ended_at - job.started_at).total_seconds() if job.ended_at and job.started_at else None


class End(NamedTuple):
    """What came of a job. Unless it is done, with a code for scripts, and why."""

    exit_code: ExitCode
    code: str = ""
    why: str = ""


def outcome(job: JobView) -> End:
    """What came of an ended job."""
    if job.state is JobState.CANCELLED:
        return End(ExitCode.INTERRUPTED, "job.cancelled", "it was cancelled")
    if job.state is JobState.FAILED:
        code = problem_code(job)
        return End(exit_code_of(code), code, f"it failed with {code}")
    if missed := untracked_bytes(job):
        return End(ExitCode.SOURCE, "tracking.lied", f"the source's tracking has missed {size(missed)}, healed now")
    bad = next((point.verdict for point in job.points if point.verdict in VERDICTS), None)
    if bad is None:
        return End(ExitCode.OK)
    exit_code, why = VERDICTS[bad]
    return End(exit_code, f"point.{bad}", why)


def untracked_bytes(job: JobView) -> int:
    """What a cycle against the source has found that its tracking has missed."""
    return sum(disk.untracked_bytes or 0 for disk in job.progress.disks)


def problem_code(job: JobView) -> str:
    """The code of its error."""
    return job.problem.code if job.problem else "internal"


def result(job: JobView) -> str:
    """The last word on it."""
    end = outcome(job)
    if end.exit_code is not ExitCode.OK:
        return end.why
    took = took_s(job)
    parts = (f"in {took:.1f} s" if took is not None else "", f"to {job.to}" if job.to else "")
    return " ".join(filter(None, ("done", *parts))) + (f", point {job.point}" if job.point else "")
