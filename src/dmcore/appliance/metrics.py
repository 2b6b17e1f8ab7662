"""What Prometheus is told of an appliance. No label has more values than an enum: groups may be thousands."""

import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dmcore.api.jobs import JobResult
from dmcore.appliance.progress import CycleProgress, DiskStats

KINDS: dict[str, Callable[[DiskStats], int]] = {
    "read": lambda disk: disk.read_bytes,
    "changed": lambda disk: disk.changed_bytes,
    "zero": lambda disk: disk.zero_bytes,
    "sealed": lambda disk: disk.sealed_bytes,
    "wire": lambda disk: disk.moved_bytes,
    "resumed": lambda disk: disk.resumed_bytes,
    "untracked": lambda disk: disk.untracked_bytes or 0,
}
LONG_S = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)


class ApplianceMetrics(Collector):
    """Counted where it happens, and asked for what runs. Any thread may call."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._lock = threading.Lock()
        self._running: list[CycleProgress] = []
        self._finished: Tally[str] = Tally()
        self._cycles = Counter(
            "dmcore_appliance_cycles", "Attempts at cycles that have ended", ["result"], registry=self.registry
        )
        self._disks = Counter(
            "dmcore_appliance_disks", "Disks of attempts that have ended, by how they were taken and why",
            ["rung", "reason"], registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "dmcore_appliance_stage_seconds", "Time that attempts took, by stage", ["stage"], buckets=LONG_S,
            registry=self.registry,
        )  # fmt: skip
        self._retries = Counter(
            "dmcore_appliance_retries", "Connections made anew because one had broken", registry=self.registry
        )
        self.throttled_s = Counter(
            "dmcore_appliance_throttled_seconds", "Time for which limits and pauses held sending back",
            registry=self.registry,
        )  # fmt: skip
        self.registry.register(self)

    def began(self, live: CycleProgress) -> None:
        """An attempt runs: its bytes count from now on."""
        with self._lock:
            self._running.append(live)

    def ended(self, live: CycleProgress, result: JobResult) -> None:
        """It is over."""
        with self._lock:
            self._running = [each for each in self._running if each is not live]
            self._finished.update(_bytes_of(live))
        self._cycles.labels(result.value).inc()
        self._retries.inc(max(live.tries - 1, 0))
        for disk in live.disks.values():
            self._disks.labels(disk.rung.value, disk.reason.value).inc()
        for stage, seconds in live.seconds.items():
            self._seconds.labels(stage.value).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """The bytes of all attempts, as they are now."""
        with self._lock:
            total = Tally(self._finished)
            for live in self._running:
                total.update(_bytes_of(live))
        family = CounterMetricFamily("dmcore_appliance_bytes", "Bytes of cycles, by what was done", labels=["kind"])
        for kind in KINDS:
            family.add_metric([kind], total[kind])
        yield family

    def describe(self) -> Iterator[Metric]:
        """Nothing is asked for at the registration."""
        return iter(())


@dataclass(frozen=True)
class Standing(Collector):
    """Where the service stands, looked at when Prometheus asks."""

    running: Callable[[], int]
    leases: Callable[[], int]
    reachable: Callable[[], bool]
    unreported: Callable[[], int]

    def collect(self) -> Iterator[Metric]:
        """All of it, as it is."""
        yield _gauge("cycles_running", "Cycles that run now", self.running())
        yield _gauge("leases_held", "Jobs of the control plane that this node holds", self.leases())
        yield _gauge("control_reachable", "Whether the control plane answered last", int(self.reachable()))
        yield _gauge(
            "unreported", "Outcomes and offline cycles that the control plane has to be told of", self.unreported()
        )

    def describe(self) -> Iterator[Metric]:
        """Nothing is asked for at the registration."""
        return iter(())


def _bytes_of(live: CycleProgress) -> dict[str, int]:
    disks = list(live.disks.values())
    return {kind: sum(map(count, disks)) for kind, count in KINDS.items()}


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(f"dmcore_appliance_{name}", what, value=value)
