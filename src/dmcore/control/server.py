"""The running control plane: HTTPS, the scheduler, metrics. Every thread is joined when `stop` returns."""

import gc
from contextlib import ExitStack
from types import TracebackType
from typing import Self

import structlog
from prometheus_client import CollectorRegistry, Histogram

from dmcore.control.plane import Plane
from dmcore.control.reports.metrics import ControlCollector, tick_seconds
from dmcore.control.schedule.scheduler import Scheduler, TickResult
from dmcore.control.settings import ControlPlaneSettings
from dmcore.control.web.app import create_app
from dmcore.control.web.http import HttpServer, listen
from dmcore.host.address import Address
from dmcore.host.clock import Clock, utc_now
from dmcore.host.lock import StateLock
from dmcore.host.metrics import MetricsServer

WAKES_APART_S = 0.02
"""Between the queues that a tick found something in: all at once, their claims would wait for each other."""

COLLECT_AFTER = (10_000, 10, 20)
"""Objects, and rounds, between looks for garbage. By Python's own numbers all objects are looked through every ten
seconds under load; nobody is answered meanwhile, for up to 0.3 s on a busy machine with 1,000 agents connected."""

log = structlog.get_logger()


class CalmCollector:
    """Looks for garbage seldom, and not among what was there when it began. Of one process; it ends as it began."""

    def __init__(self) -> None:
        self._before = gc.get_threshold()
        self._began = False

    def start(self) -> None:
        """From now on."""
        self._began = True
        gc.freeze()
        gc.set_threshold(*COLLECT_AFTER)

    def stop(self) -> None:
        """Idempotent."""
        if self._began:
            self._began = False
            gc.unfreeze()
            gc.set_threshold(*self._before)


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
            registry = CollectorRegistry()
            ticks = tick_seconds(registry)
            self.metrics = self._metrics(settings.metrics.listen, registry)
            self._undo = undo.pop_all()
        self._scheduler = _TimedScheduler(self.plane.database, settings.leases.tick_s, self._on_tick)
        self._scheduler.seconds = ticks
        self._collector = CalmCollector()

    def start(self) -> None:
        """Serve and schedule from now on."""
        self._collector.start()
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
        self._collector.stop()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _metrics(self, address: Address | None, registry: CollectorRegistry) -> MetricsServer | None:
        if address is None:
            return None
        registry.register(ControlCollector(self.plane.database))
        return MetricsServer(address, registry)

    def _on_tick(self, result: TickResult) -> None:
        within_s = self.plane.settings.leases.tick_s
        self.plane.waiters.wake(result.waiting, min(WAKES_APART_S, within_s / max(len(result.waiting), 1)))


class _TimedScheduler(Scheduler):
    """Its ticks are counted by what they take."""

    seconds: Histogram

    def _tick(self) -> None:
        with self.seconds.time():
            super()._tick()
