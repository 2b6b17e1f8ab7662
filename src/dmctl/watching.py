"""Looking at jobs until they have ended. They run elsewhere: whoever stops looking stops nothing."""

import time
from collections.abc import Callable, Sequence

import click

from dmcore.api.jobs import JobView
from dmcore.api.operator_client import OperatorClient
from dmcore.errors import DmcoreError, ExitCode
from dmctl import failures
from dmctl.errors import WatchInterrupted
from dmctl.job_texts import ended, outcome, short_id, title
from dmctl.job_views import JobsView, make_jobs_view
from dmctl.output import printable
from dmctl.stopping import Stop

LOOK_S = 1.0
JOBS_A_LOOK = 20
"""So many are asked for a second; of more, each less often."""
PATIENCE_S = 120.0
"""How long a control plane may be silent: it is restarted in less, and the jobs go on."""


def follow_jobs(control: OperatorClient, jobs: Sequence[JobView], *, as_json: bool) -> ExitCode:
    """Show jobs until all have ended. Returns what to exit with; why some are not done is printed.

    Raises:
        WatchInterrupted: somebody asked to stop looking.
        DmcoreError: the control plane refuses to tell, or is silent for too long.
    """
    view = make_jobs_view(as_json=as_json)
    with Stop() as stop:
        last = Watch(control, view, stop).until_ended(jobs)
    return tell_ends(last, as_json=as_json)


class Watch:
    """Asks for jobs again and again, and shows them."""

    def __init__(
        self, control: OperatorClient, view: JobsView, stop: Stop, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._control, self._view, self._stop, self._clock = control, view, stop, clock
        self._silent_since: float | None = None

    def until_ended(self, jobs: Sequence[JobView]) -> Sequence[JobView]:
        """The jobs as they ended. Raises as `follow_jobs`."""
        try:
            self._view.show(jobs)
            while running := sum(not ended(job) for job in jobs):
                if self._stop.wait(LOOK_S * max(1, running / JOBS_A_LOOK)):
                    raise _interrupted(jobs)
                jobs = self._asked(jobs)
                self._view.show(jobs)
        finally:
            self._view.rest()
        return jobs

    def _asked(self, jobs: Sequence[JobView]) -> Sequence[JobView]:
        """Each anew; as before, where the control plane does not answer now."""
        try:
            found = [job if ended(job) else self._control.job(job.id) for job in jobs]
        except DmcoreError as problem:
            if problem.permanent:
                raise
            self._bear(problem)
            return jobs
        self._silent_since = None
        return found

    def _bear(self, problem: DmcoreError) -> None:
        now = self._clock()
        if self._silent_since is None:
            self._silent_since = now
            click.echo(f"the control plane does not answer; the jobs go on, and it is asked again: {problem}", err=True)
        elif now - self._silent_since > PATIENCE_S:
            raise problem


def _interrupted(jobs: Sequence[JobView]) -> WatchInterrupted:
    running = [short_id(job) for job in jobs if not ended(job)]
    named = f"job {running[0]}" if len(running) == 1 else f"{len(running)} jobs"
    return WatchInterrupted(jobs=named, first=running[0])


def tell_ends(jobs: Sequence[JobView], *, as_json: bool) -> ExitCode:
    """Say of each job that is not done why. The first of them decides what to exit with."""
    codes = [_tell_end(job, as_json=as_json) for job in jobs]
    return next((code for code in codes if code is not ExitCode.OK), ExitCode.OK)


def _tell_end(job: JobView, *, as_json: bool) -> ExitCode:
    end = outcome(job)
    if end.exit_code is ExitCode.OK:
        return end.exit_code
    where = f"; the log of node {job.node[:12]} says more" if job.problem and job.node else ""
    told = {
        "code": end.code,
        "message": f"job {short_id(job)}, {title(job)}: {end.why}{where}",
        "exit_code": int(end.exit_code),
        "permanent": job.problem.permanent if job.problem else end.exit_code is not ExitCode.BUSY,
        "correlation": job.problem.correlation if job.problem else "",
    }
    return failures.say(told, as_json=as_json)


def jobs_made(jobs: Sequence[JobView]) -> None:
    """For who does not wait."""
    for job in jobs:
        click.echo(printable(f"Job {short_id(job)}, {title(job)}: dmctl job watch {short_id(job)}"))
