"""One job's cycle in a thread of its own, while the main thread shows how far it is and listens for Ctrl-C."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from contextvars import copy_context
from dataclasses import dataclass
from uuid import uuid4

from structlog.contextvars import bound_contextvars

from dmcore.api.jobs import Job
from dmcore.appliance.cycle import Cycle
from dmcore.appliance.errors import Cancelled
from dmcore.appliance.progress import CycleProgress, CycleReport
from dmctl.errors import Interrupted
from dmctl.failures import understood
from dmctl.stopping import Stop
from dmctl.views import View

RunJob = Callable[[Job, CycleProgress, Callable[[Cycle], None]], CycleReport]
"""`Appliance.run`."""

LOOK_S = 0.25
"""How often a view is shown the progress: at most four times a second."""


@dataclass(frozen=True)
class Runner:
    """Runs jobs one after the other. The main thread's."""

    run_job: RunJob
    view: View
    stop: Stop

    def run(self, job: Job) -> CycleReport:
        """Run one job and show its report.

        Raises:
            Interrupted: somebody asked to stop. DmcoreError: there is no recovery point, for whatever reason. Both
                carry the correlation id of this run's log lines.
        """
        with bound_contextvars(correlation=uuid4().hex):
            try:
                report = self._run(job)
            except Exception as error:
                raise understood(error) from error
        self.view.finish(report)
        return report

    def _run(self, job: Job) -> CycleReport:
        if self.stop.asked:
            raise Interrupted(cycle=str(job.cycle))
        try:
            return self._watched(job)
        except Cancelled as cancelled:
            if not self.stop.asked:
                raise
            raise Interrupted(cycle=str(job.cycle)) from cancelled
        finally:
            self.view.rest()

    def _watched(self, job: Job) -> CycleReport:
        progress, started = CycleProgress(), list[Cycle]()
        with ThreadPoolExecutor(1, "cycle") as thread:
            future = thread.submit(copy_context().run, self.run_job, job, progress, started.append)
            self.view.show(progress)
            while wait([future], LOOK_S).not_done:
                self.view.show(progress)
                if self.stop.asked:
                    for cycle in started:
                        cycle.cancel("stopped on request")
        self.view.show(progress)
        return future.result()
