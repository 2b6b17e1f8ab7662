"""Cycles that an appliance ran by itself while it could not reach the control plane: told of afterwards."""

from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, insert, select

from dmcore.api.jobs import JobResult
from dmcore.api.nodes import OfflineCycle, OfflineReport
from dmcore.control.queue import attempts, epochs
from dmcore.control.store.tables import groups, jobs, nodes, plans
from dmcore.model.ids import successor_cycle
from dmcore.model.jobs import JobKind, JobState

STATES = {
    JobResult.COMPLETED: JobState.COMPLETED,
    JobResult.FAILED: JobState.FAILED,
    JobResult.CANCELLED: JobState.CANCELLED,
}


def record_offline(connection: Connection, now: datetime, node_id: str, report: OfflineReport) -> None:
    """Keep them as jobs that are over. Each cycle once, whoever says it how often.

    What a restored database does not know (any more), or what is not this node's site's, is left out: the
    recovery points are stated by their connector, and a refusal would only be asked again for ever.
    """
    for cycle in sorted(report.cycles, key=lambda each: each.group):  # groups are locked by their ids everywhere
        home = _home(connection, node_id, cycle) if cycle.outcome.epoch < epochs.MAX_EPOCH else None
        if home is not None and not _is_known(connection, cycle):
            _keep(connection, now, node_id, home, cycle)


def _home(connection: Connection, node_id: str, cycle: OfflineCycle) -> Row[Any] | None:
    """The plan, and the lock of the group. None: this node has no such group."""
    query = select(plans).join(groups, groups.c.plan == plans.c.id).join(nodes, nodes.c.site == plans.c.site)
    ours = (groups.c.id == cycle.group, plans.c.id == cycle.plan, nodes.c.id == node_id)
    return connection.execute(query.where(*ours).with_for_update(of=groups)).one_or_none()


def _is_known(connection: Connection, cycle: OfflineCycle) -> bool:
    return connection.execute(select(jobs.c.id).where(jobs.c.cycle == _id_of(cycle))).first() is not None


def _keep(connection: Connection, now: datetime, node_id: str, plan: Row[Any], cycle: OfflineCycle) -> None:
    started, state = min(cycle.started_at, now), STATES[cycle.outcome.result]
    ended = max(started, min(cycle.ended_at, now))  # by the node's clock, which may be off
    connection.execute(
        insert(jobs).values(
            id=uuid4(), kind=JobKind.CYCLE, state=state, plan=plan.id, group=cycle.group, cycle=_id_of(cycle),
            site=plan.site, source=plan.source, connector=plan.connector, node=node_id, epoch=cycle.outcome.epoch,
            attempts=1, due_at=started, not_before=started, leased_at=started, started_at=started, ended_at=ended,
            offline=True, **attempts.facts(cycle.outcome),
        )
    )  # fmt: skip
    for floor in (cycle.outcome.epoch_floor, cycle.outcome.epoch):
        epochs.raise_epoch(connection, now, cycle.group, floor, node=node_id)
    attempts.settle_group(connection, now, cycle.group, state, cycle.outcome, started)


def _id_of(cycle: OfflineCycle) -> UUID:
    return successor_cycle(cycle.base_cycle, cycle.successor)
