"""What Prometheus is told of a connector. No label has more values than an enum: groups may be thousands."""

from collections import Counter as Tally
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from dmcore.connector.groups import Groups
from dmcore.host.clock import Clock
from dmcore.model.phase import Phase
from dmcore.shadow.points import Catalogue
from dmcore.shadow.storage import Storage

NO_CYCLE = "none"
SECONDS = (0.1, 0.5, 1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
VERIFIED_DAYS = (1, 7, 30, 90)
STEPS = {Phase.APPLIED: "apply", Phase.FAILED: "apply", Phase.SNAPSHOTTED: "snapshot"}
"""What has been done when a phase is reached."""


class ConnectorMetrics:
    """Counted where it happens; any thread may."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.received_bytes = Counter(
            "dmcore_connector_received_bytes", "Sealed bytes of batches that were received", registry=self.registry
        )
        self.acks = Counter(
            "dmcore_connector_acks", "Answers that batches are durable; each stands for a sync", registry=self.registry
        )
        self.applied_bytes = Counter(
            "dmcore_connector_applied_bytes", "Bytes of staging logs that were applied to shadows",
            registry=self.registry,
        )  # fmt: skip
        self._seconds = Histogram(
            "dmcore_connector_cycle_seconds", "Time that cycles took, by what was done", ["step"], buckets=SECONDS,
            registry=self.registry,
        )  # fmt: skip

    def received(self, seconds: float) -> None:
        """An attempt has sent all: so long after its `begin`."""
        self._seconds.labels("receive").observe(seconds)

    def reached(self, phase: Phase, seconds: float) -> None:
        """A cycle was rolled forward to this phase in this time."""
        if phase in STEPS:
            self._seconds.labels(STEPS[phase]).observe(seconds)


@dataclass(frozen=True)
class Gauges:
    """What is looked at when Prometheus asks."""

    groups: Groups
    storage: Storage
    staging: Path
    clock: Clock
    outbox_entries: Callable[[], int]
    credit_in_use: Callable[[], int]
    control_reachable: Callable[[], bool]

    def watch(self, registry: CollectorRegistry) -> None:
        """Be asked with everything else of the registry."""
        registry.register(_Asked(self))

    def now(self) -> Iterator[Metric]:
        """All of them, as they are."""
        yield self._groups_by_phase()
        catalogues = self.groups.catalogues()
        yield gauge("points", "Recovery points in the catalogue", sum(held.count() for held in catalogues))
        yield from self._verified(catalogues)
        yield gauge("outbox_entries", "Points that the control plane has to be told of", self.outbox_entries())
        yield gauge("staging_bytes", "What staged cycles take", self.groups.room.used_bytes)
        yield gauge("credit_in_use", "Batches granted to senders and not yet durable", self.credit_in_use())
        yield gauge("control_reachable", "Whether the control plane answered last", int(self.control_reachable()))

    def _groups_by_phase(self) -> Metric:
        cycles = [shadow.state.cycle for shadow in self.groups.all()]
        tally = Tally(str(cycle.phase) if cycle else NO_CYCLE for cycle in cycles)
        tally["broken"] = len(self.groups.broken)
        family = GaugeMetricFamily("dmcore_connector_groups", "Groups by their cycle's phase", labels=["phase"])
        for phase in (*map(str, Phase), NO_CYCLE, "broken"):
            family.add_metric([phase], tally[phase])
        return family

    def _verified(self, catalogues: list[Catalogue]) -> Iterator[Metric]:
        ages = [days for held in catalogues if (days := self._days_since_verified(held)) is not None]
        family = GaugeMetricFamily(
            "dmcore_connector_groups_verified", "Groups with a point that was verified within so many days",
            labels=["days"],
        )  # fmt: skip
        for limit in VERIFIED_DAYS:
            family.add_metric([str(limit)], sum(days <= limit for days in ages))
        yield family
        yield gauge("groups_never_verified", "Groups without a verified point", len(catalogues) - len(ages))
        worst = max(ages, default=0)
        yield gauge("verification_age_days", "Days since the last verification, of the worst group", worst)

    def _days_since_verified(self, catalogue: Catalogue) -> float | None:
        times: list[datetime] = [flags.verified_at for flags in catalogue.changed() if flags.verified_at]
        return (self.clock() - max(times)).total_seconds() / 86_400 if times else None


class _Asked(Collector):
    def __init__(self, gauges: Gauges) -> None:
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """At every scrape."""
        return self._gauges.now()

    def describe(self) -> Iterator[Metric]:
        """Nothing is asked for at the registration."""
        return iter(())


def gauge(name: str, what: str, value: float) -> Metric:
    """One number."""
    return GaugeMetricFamily(f"dmcore_connector_{name}", what, value=value)
