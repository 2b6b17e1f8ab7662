"""Looking at a job at the control plane until it has ended, and until its point is in the index."""

import threading
from collections.abc import Callable
from typing import Any

from dmcore.api.jobs import JobsReply, JobView
from dmcore.api.operator_client import OperatorClient
from dmcore.errors import ExitCode
from dmcore.lab.errors import JobFailed
from dmcore.model.ids import PlanId
from dmcore.model.jobs import JobState

LOOK_S = 0.25
ENDED = frozenset({JobState.COMPLETED, JobState.FAILED, JobState.CANCELLED})


ExitCodeOf = Callable[[str], ExitCode]
"""What to exit with for an error that is known by its code only."""


def await_job(
    operator: OperatorClient, start: Callable[[], JobsReply], shown: Callable[[JobView], None], exit_code_of: ExitCodeOf
) -> JobView:
    """The first job that `start` gives, when it has ended; `start` is asked until there is one.

    Raises:
        JobFailed: it ended without a point.
    """
    pause = threading.Event()
    while not (jobs := start().jobs):
        pause.wait(LOOK_S)
    job = jobs[0]
    shown(job)
    while job.state not in ENDED:
        pause.wait(LOOK_S)
        job = operator.job(job.id)
        shown(job)
    if job.state is not JobState.COMPLETED:
        code = job.problem.code if job.problem else f"job.{job.state}"
        message = f"job {job.id} ended {job.state} with {code}; the appliance's log says more"
        raise JobFailed(message, code, exit_code_of(code))
    return operator.job(job.id) if job is jobs[0] else job  # a list says nothing of disks


def await_point(operator: OperatorClient, plan: PlanId, job: JobView, each: Callable[[], None]) -> None:
    """Return when the connector has told the control plane of the job's point."""
    pause = threading.Event()
    while job.point not in [point.id for point in operator.points(plan=plan).points]:
        each()
        pause.wait(LOOK_S)


def report_of(job: JobView) -> dict[str, Any]:
    """What a job came to, for JSON and tables."""
    seconds = {stage.value: round(spent, 4) for stage, spent in job.seconds.items()}
    return {
        "plan": str(job.plan),
        "job": str(job.id),
        "cycle": str(job.cycle),
        "point": str(job.point),
        "source_time": job.source_time.isoformat() if job.source_time else None,
        "disks": [
            {**disk.model_dump(mode="json"), "seconds": seconds.get("transfer", 0.0)} for disk in job.progress.disks
        ],
        "seconds": seconds,
    }


def progress_of(job: JobView) -> dict[str, Any]:
    """How far it is, for bars."""
    progress = job.progress
    return {
        "disks": [{**disk.model_dump(mode="json"), "label": str(disk.disk)[:8]} for disk in progress.disks],
        "applied_bytes": progress.applied_bytes,
        "to_apply_bytes": progress.to_apply_bytes,
    }
