"""The running control plane: HTTPS, the scheduler, metrics. Every thread is joined when `stop` returns."""

from contextlib import ExitStack
from types import TracebackType
from typing import Self

import structlog
from prometheus_client import CollectorRegistry

from dmcore.control.plane import Plane
from dmcore.control.reports.metrics import ControlCollector
from dmcore.control.schedule.scheduler import Scheduler, TickResult
from dmcore.control.settings import ControlPlaneSettings
from dmcore.control.web.app import create_app
from dmcore.control.web.http import HttpServer, listen
from dmcore.host.address import Address
from dmcore.host.clock import Clock, utc_now
from dmcore.host.lock import StateLock
from dmcore.host.metrics import MetricsServer

log = structlog.get_logger()


class ControlServer:
    """One control plane's process."""

    def __init__(self, settings: ControlPlaneSettings, clock: Clock = utc_now) -> None:
        """Everything is opened, nothing runs yet.

        Raises:
            NodeRunning: another process runs on this state directory.
            CannotListen, MetricsUnreachable: the addresses.
            NotInitialised, StoreOutdated, StoreNewer, StoreBusy, FileBroken, FileExposed: as `Plane.open`.
        """
        with ExitStack() as undo:
            undo.callback(StateLock(settings.state_dir).release)
            self.plane = undo.enter_context(Plane.open(settings, clock))
            listener = undo.enter_context(listen(settings.listen))
            self.address = Address(settings.listen.host, listener.getsockname()[1])
            self.plane.port = self.address.port
            self._http = HttpServer(create_app(self.plane), listener, self.plane.certificate)
            self.metrics = self._metrics(settings.metrics.listen)
            self._undo = undo.pop_all()
        self._scheduler = Scheduler(self.plane.database, settings.leases.tick_s, self._on_tick)

    def start(self) -> None:
        """Serve and schedule from now on."""
        self._http.start()
        self._scheduler.start()
        if self.metrics is not None:
            self.metrics.start()
        log.info("control plane serves", address=str(self.address), control=str(self.plane.control))

    def check(self) -> None:
        """Raises ServerStopped: it serves no more, though nobody stopped it."""
        self._http.check()

    def stop(self) -> None:
        """Long polls end with nothing, other requests get a moment; then all is closed. Idempotent."""
        self._scheduler.stop()
        self.plane.waiters.close()
        self._http.stop()
        if self.metrics is not None:
            self.metrics.stop()
        self._undo.close()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _metrics(self, address: Address | None) -> MetricsServer | None:
        if address is None:
            return None
        registry = CollectorRegistry()
        registry.register(ControlCollector(self.plane.database))
        return MetricsServer(address, registry)

    def _on_tick(self, result: TickResult) -> None:
        self.plane.waiters.wake(result.waiting)
