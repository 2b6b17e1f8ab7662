"""A claim: one job goes to one node, under a lease, an epoch and a ticket, in the caller's one transaction."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, Table, and_, or_, select, update

from dmcore.api.jobs import Codec, ConnectorJob, Job
from dmcore.api.nodes import PollRequest
from dmcore.control.queue import attempts, leases
from dmcore.control.queue.queue import runnable
from dmcore.control.queue.tickets import TicketDesk
from dmcore.control.settings import LeaseSettings
from dmcore.control.store.tables import HELD, QUEUED_CYCLES, QUEUED_WORK, groups, jobs, plans
from dmcore.model.enums import Role, Rung
from dmcore.model.jobs import JobKind, JobState

UNHEARD_S = 4.0
"""A process that has got a job says so much sooner: by its first heartbeat, or as busy with its next poll."""


def claim(
    connection: Connection,
    now: datetime,
    node: Row[Any],
    poll: PollRequest,
    tickets: TicketDesk,
    settings: LeaseSettings,
) -> Job | ConnectorJob | None:
    """The next job for a node of the table `nodes`, leased to it; None: there is none that it may have.

    Leases that ran out are taken back first, and those of an earlier process of the same node. A cycle's lease that
    this process has never heard of is handed out once more, as it is.
    """
    leases.reap(connection, now)
    unheard = _settle_strays(connection, now, node.id, poll)
    if not poll.slots:
        return None
    if node.role == Role.APPLIANCE:
        again = _again(connection, now, node, poll, tickets, unheard)
        return again or _claim_cycle(connection, now, node, poll, tickets, settings)
    return _claim_work(connection, now, node, poll, settings)


def _settle_strays(connection: Connection, now: datetime, node: str, poll: PollRequest) -> list[UUID]:
    """Take back what an earlier process held: one that is gone finishes nothing. Returns cycles this one may not know.

    Those were the answer to a poll, and the answer was lost on its way: else the process would say that it has them.
    """
    unheard = and_(
        jobs.c.state == JobState.LEASED, jobs.c.kind == JobKind.CYCLE, jobs.c.cancelling.is_(False),
        jobs.c.leased_at <= now - timedelta(seconds=UNHEARD_S), jobs.c.group.not_in(poll.busy),
    )  # fmt: skip
    strays = select(jobs).where(HELD, jobs.c.node == node, or_(jobs.c.incarnation != poll.incarnation, unheard))
    found = connection.execute(strays.with_for_update(skip_locked=True)).all()
    for job in sorted(found, key=lambda each: str(each.group)):  # groups are locked by their ids, here as everywhere
        if job.incarnation != poll.incarnation:
            attempts.lost(connection, now, job, at_once=True)
    return [job.id for job in found if job.incarnation == poll.incarnation]


def _again(
    connection: Connection, now: datetime, node: Row[Any], poll: PollRequest, tickets: TicketDesk, unheard: list[UUID]
) -> Job | None:
    """A lease of this very process, with a new ticket. It ends when it would have: this answer may get lost, too."""
    if not unheard:
        return None
    job = connection.execute(_cycles_for(node, poll).where(jobs.c.id.in_(unheard)).limit(1)).one_or_none()
    if job is None:
        return None
    connection.execute(update(jobs).where(jobs.c.id == job.id).values(leased_at=now, counter_at=now))
    return _handed_out(now, job, job.epoch, node, tickets)


def _claim_cycle(
    connection: Connection,
    now: datetime,
    node: Row[Any],
    poll: PollRequest,
    tickets: TicketDesk,
    settings: LeaseSettings,
) -> Job | None:
    job = _pick(connection, now, _cycles_for(node, poll).where(QUEUED_CYCLES), jobs, groups)
    if job is None:
        return None
    raised = update(groups).where(groups.c.id == job.group).values(epoch=groups.c.epoch + 1)
    epoch = connection.execute(raised.returning(groups.c.epoch)).scalar_one()
    _lease(connection, now, job, node, poll, epoch, settings)
    return _handed_out(now, job, epoch, node, tickets)


def _cycles_for(node: Row[Any], poll: PollRequest) -> Select[Any]:
    """Jobs that this appliance could run, whatever their state, with what it must know of their plans and groups."""
    there = select(jobs, plans.c.target, plans.c.codec, groups.c.machines)
    there = there.join(plans, plans.c.id == jobs.c.plan).join(groups, groups.c.id == jobs.c.group)
    mine = (jobs.c.site == node.site, jobs.c.source.in_(poll.sources), jobs.c.group.not_in(poll.busy))
    return there.where(*mine, *runnable())


def _handed_out(now: datetime, job: Row[Any], epoch: int, node: Row[Any], tickets: TicketDesk) -> Job:
    ticket = tickets.mint(
        now, plan=job.plan, group=job.group, cycle=job.cycle, epoch=epoch, node=node.id, connector=job.connector
    )
    return Job(
        job=job.id, ticket=ticket, plan=job.plan, group=job.group, cycle=job.cycle, epoch=epoch,
        connector=job.connector, machines=tuple(job.machines), source=job.source, target=job.target,
        codec=Codec(job.codec), resync=Rung(job.resync) if job.resync else None,
    )  # fmt: skip


def _claim_work(
    connection: Connection, now: datetime, node: Row[Any], poll: PollRequest, settings: LeaseSettings
) -> ConnectorJob | None:
    job = _pick(connection, now, select(jobs).where(QUEUED_WORK, jobs.c.connector == node.id), jobs)
    if job is None:
        return None
    epoch = job.attempts + 1
    _lease(connection, now, job, node, poll, epoch, settings)
    return ConnectorJob(job=job.id, kind=job.kind, epoch=epoch, **job.arguments)


def _pick(connection: Connection, now: datetime, there: Select[Any], *locked: Table) -> Row[Any] | None:
    """The one that waits longest; on PostgreSQL past those that another has in hand, or the group of which one has.

    Nobody is waited for with a job in hand: a change of its plan may wait for that.
    """
    first = there.where(jobs.c.not_before <= now).order_by(jobs.c.not_before, jobs.c.id).limit(1)
    return connection.execute(first.with_for_update(skip_locked=True, of=locked)).one_or_none()


def _lease(
    connection: Connection,
    now: datetime,
    job: Row[Any],
    node: Row[Any],
    poll: PollRequest,
    epoch: int,
    settings: LeaseSettings,
) -> None:
    until = now + timedelta(seconds=settings.lease_s)
    leased = update(jobs).where(jobs.c.id == job.id).values(
        state=JobState.LEASED, node=node.id, incarnation=poll.incarnation, epoch=epoch, attempts=job.attempts + 1,
        lease_until=until, leased_at=now, started_at=None, stage=None, counter=0, counter_at=now, stalled=False,
        progress={},
    )  # fmt: skip
    connection.execute(leased)
