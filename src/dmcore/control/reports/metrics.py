"""What Prometheus sees of the control plane: the database's state as gauges, what has ended as counters.

The counters count what this process has seen end since it began: with several replicas, each counts all.
"""

import threading
from collections.abc import Iterator, Sequence
from datetime import datetime

from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Connection, func, select

from dmcore.api.jobs import Progress
from dmcore.control.errors import StoreBusy, StoreRefused
from dmcore.control.queue.shares import is_live
from dmcore.control.reports.status import backlog_bytes, count_jobs, plan_statuses
from dmcore.control.reports.tallies import Tallies
from dmcore.control.store.database import Database
from dmcore.control.store.tables import HELD, QUEUED_CYCLES, QUEUED_WORK, groups, jobs, nodes, plans, points
from dmcore.model.enums import Role
from dmcore.model.jobs import JobState

DAY_S = 86_400
TICK_SECONDS = "dmcore_control_tick_seconds"
TICK_BOUNDS_S = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5, 10.0)


def tick_seconds(registry: CollectorRegistry) -> Histogram:
    """What this replica's ticks take, those that fail included. Its owner observes them. Thread-safe."""
    return Histogram(TICK_SECONDS, "The scheduler's ticks of this replica", registry=registry, buckets=TICK_BOUNDS_S)


class ControlCollector(Collector):
    """Asks the database at each scrape. Thread-safe. While the database is away, it says no more than that."""

    def __init__(self, database: Database) -> None:
        """What has ended before is not counted."""
        self._database = database
        self._lock = threading.Lock()
        self._tallies: Tallies | None = None

    def describe(self) -> Sequence[Metric]:
        """Nothing: else registering it would ask the database."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Everything, as of now."""
        up = GaugeMetricFamily("dmcore_store_up", "Whether the database answers")
        try:
            with self._lock, self._database.read() as connection:
                found = self._found(connection, self._database.now(connection))
        except (StoreBusy, StoreRefused):
            up.add_metric([], 0)
            yield up
            return
        up.add_metric([], 1)
        yield up
        yield from found

    def _found(self, connection: Connection, now: datetime) -> list[Metric]:
        if self._tallies is None:
            self._tallies = Tallies(connection, now)
        self._tallies.catch_up(connection, now)
        return [
            *_plans(connection, now),
            _backlog(connection),
            _jobs(connection),
            _leases(connection),
            _verification(connection, now),
            _sampling(connection, now),
            _nodes(connection, now),
            *self._tallies.metrics(),
        ]


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=labels)


def _plans(connection: Connection, now: datetime) -> list[Metric]:
    lag = _gauge("dmcore_plan_lag_seconds", "Age of the newest point of the group that is furthest behind", "plan")
    breached = _gauge("dmcore_plan_rpo_breached", "Groups without a point younger than the RPO", "plan")
    for plan in plan_statuses(connection, now):
        breached.add_metric([plan.name], plan.breached)
        if plan.lag_s is not None:
            lag.add_metric([plan.name], plan.lag_s)
    return [lag, breached]


def _backlog(connection: Connection) -> Metric:
    backlog = _gauge("dmcore_backlog_bytes", "Bytes that running cycles have still to read", "plan")
    held = select(plans.c.name, jobs.c.state, jobs.c.progress).join(plans, plans.c.id == jobs.c.plan)
    totals: dict[str, int] = {}
    for name, state, progress in connection.execute(held.where(jobs.c.id.in_(select(jobs.c.id).where(HELD)))):
        left = backlog_bytes(JobState(state), Progress.model_validate(progress))
        totals[name] = totals.get(name, 0) + (left or 0)
    for name, total in totals.items():
        backlog.add_metric([name], total)
    return backlog


def _jobs(connection: Connection) -> Metric:
    family = _gauge("dmcore_jobs", "Jobs that are not over", "kind", "state")
    for which in (QUEUED_CYCLES, QUEUED_WORK, HELD):
        counted = select(jobs.c.kind, jobs.c.state, func.count()).where(which).group_by(jobs.c.kind, jobs.c.state)
        for kind, state, count in connection.execute(counted):
            family.add_metric([kind, state], count)
    return family


def _verification(connection: Connection, now: datetime) -> Metric:
    family = _gauge(
        "dmcore_days_since_verification", "Since a point of the plan was verified; never: since it was made", "plan"
    )
    verified = select(points.c.plan, func.max(points.c.verified_at).label("at"))
    last = verified.where(points.c.verified_at.is_not(None)).group_by(points.c.plan).subquery()
    joined = select(plans.c.name, plans.c.created_at, last.c.at).outerjoin(last, last.c.plan == plans.c.id)
    for name, created_at, at in connection.execute(joined.where(plans.c.deleted_at.is_(None))):
        family.add_metric([name], max((now - (at or created_at)).total_seconds(), 0) / DAY_S)
    return family


def _sampling(connection: Connection, now: datetime) -> Metric:
    family = _gauge(
        "dmcore_days_since_sample",
        "Since a sample was found good, of the plan's group that waits longest; never: since the plan was made", "plan",
    )  # fmt: skip
    since = func.min(func.coalesce(groups.c.sampled_at, plans.c.created_at)).label("at")
    joined = select(plans.c.name, since).join(groups, groups.c.plan == plans.c.id).group_by(plans.c.id, plans.c.name)
    sampled = (plans.c.verify_percent > 0, plans.c.deleted_at.is_(None), groups.c.deleted_at.is_(None))
    for name, at in connection.execute(joined.where(*sampled)):
        family.add_metric([name], max((now - at).total_seconds(), 0) / DAY_S)
    return family


def _nodes(connection: Connection, now: datetime) -> Metric:
    family = _gauge("dmcore_nodes_live", "Nodes that were heard of lately", "role")
    live = dict.fromkeys(Role, 0)
    for role, seen_at in connection.execute(select(nodes.c.role, nodes.c.seen_at).where(nodes.c.revoked_at.is_(None))):
        live[Role(role)] += is_live(now, seen_at)
    for role, count in live.items():
        family.add_metric([role], count)
    return family


def _leases(connection: Connection) -> Metric:
    family = _gauge("dmcore_leases", "Jobs that a node has a lease on")
    family.add_metric([], count_jobs(connection, HELD))
    return family
