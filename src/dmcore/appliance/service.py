"""An appliance as a service of its control plane: it takes jobs, several at a time; without one it goes by itself.

Nothing that runs waits for the control plane: heartbeats, outcomes and reports have threads of their own.
"""

import time
from collections.abc import Callable
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import structlog

from dmcore.appliance.agent import Appliance
from dmcore.appliance.desk import JobDesk
from dmcore.appliance.metrics import Standing
from dmcore.appliance.offline_state import OfflineState
from dmcore.appliance.standby import LOOK_S, Standby
from dmcore.appliance.sweeper import Sweeper
from dmcore.host.clock import Clock, utc_now
from dmcore.host.metrics import MetricsServer
from dmcore.node.backoff import Backoff
from dmcore.node.control_client import NodeClient
from dmcore.node.lease import LeaseKeeper
from dmcore.node.worker import Worker

log = structlog.get_logger()


class ApplianceService:
    """Owns every thread of the service: `stop` joins them all."""

    def __init__(
        self,
        node: Appliance,
        client: NodeClient,
        *,
        ended: Callable[[Exception], None] = lambda _: None,
        clock: Clock = utc_now,
        monotonic: Callable[[], float] = time.monotonic,
        backoff: Callable[[], Backoff] = Backoff,
        look_s: float = LOOK_S,
    ) -> None:
        """Nothing runs yet. `ended` is told, in another thread, why this process must stop: another one has its place.

        Raises:
            MetricsUnreachable: the configured address cannot be had.
        """
        self._node, self._client, self._clock = node, client, clock
        state_dir = node.settings.state_dir
        self._undo = ExitStack()
        self._undo.callback(client.close)
        self.keeper = LeaseKeeper(client, state_dir, backoff=backoff())
        self.state = OfflineState(state_dir)
        self.desk = JobDesk(node, self.keeper, self.state, clock, monotonic)
        self.worker = Worker(client, self.desk, self.keeper, with_plans=True, backoff=backoff())
        self._sweeper = Sweeper(node.sweep(), self.state, self.desk.crew.busy, clock, monotonic)
        self.desk.crew.freed, self.desk.on_end = self._freed, ended
        self._standby = Standby(self._look, self._sweeper.sweep, look_s)
        self._serve_metrics()

    def start(self) -> None:
        """Ask for work, and go on with what an earlier process has left."""
        if self._metrics is not None:
            self._metrics.start()
            self._undo.callback(self._metrics.stop)
        # Undone from the last to the first: no new work, then no work, then its end is told.
        for part in (self.keeper, self.desk.crew, self._standby, self.worker):
            self._undo.callback(part.stop)
        self.keeper.start()
        self._standby.start()
        self.worker.start()
        log.info("appliance serves", node=self._node.identity.node, slots=self.desk.crew.slots)

    def stop(self) -> None:
        """End the cycles where they are, keep their source snapshots, tell what can be told. Idempotent."""
        self._undo.close()

    def _freed(self) -> None:
        self._sweeper.attempt_ended()
        self.worker.wake()

    def _look(self) -> None:
        self.desk.look()
        self._sweeper.look()

    def _serve_metrics(self) -> None:
        registry, listen = self._node.metrics.registry, self._node.settings.metrics.listen
        registry.register(
            Standing(
                running=lambda: len(self.desk.crew.duties()),
                leases=lambda: sum(duty.alone is None for duty in self.desk.crew.duties()),
                reachable=lambda: self.worker.reachable,
                unreported=lambda: self.keeper.undelivered + self.state.unreported,
            )
        )
        self._metrics = None if listen is None else MetricsServer(listen, registry)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
