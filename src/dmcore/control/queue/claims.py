"""A claim: one job goes to one node, under a lease, an epoch and a ticket, in the caller's one transaction."""

from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, Table, and_, bindparam, or_, select, update

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


def _next(there: Select[Any], *locked: Table) -> Select[Any]:
    """The one that waits longest; on PostgreSQL past those that another has in hand, or the group of which one has.

    Nobody is waited for with a job in hand: a change of its plan may wait for that.
    """
    first = there.where(jobs.c.not_before <= bindparam("now")).order_by(jobs.c.not_before, jobs.c.id).limit(1)
    return first.with_for_update(skip_locked=True, of=locked)


# Made once: SQLAlchemy takes longer to put these together than PostgreSQL to answer them.
_BUSY = jobs.c.group.not_in(bindparam("busy", expanding=True))
_UNHEARD = and_(
    jobs.c.state == JobState.LEASED, jobs.c.cancelling.is_(False), jobs.c.leased_at <= bindparam("before"),
    or_(jobs.c.kind != JobKind.CYCLE, _BUSY),
)  # fmt: skip
_STRAYS = select(jobs.c.id, jobs.c.group, jobs.c.incarnation).where(HELD, jobs.c.node == bindparam("node"))
_STRAYS = _STRAYS.where(or_(jobs.c.incarnation != bindparam("incarnation"), _UNHEARD)).with_for_update(skip_locked=True)
_CYCLES: Select[Any] = (
    select(
        jobs.c.id, jobs.c.plan, jobs.c.group, jobs.c.cycle, jobs.c.source, jobs.c.connector, jobs.c.epoch,
        jobs.c.attempts, jobs.c.resync, jobs.c.arguments, plans.c.target, plans.c.codec, groups.c.machines,
    )
    .join(plans, plans.c.id == jobs.c.plan)
    .join(groups, groups.c.id == jobs.c.group)
    .where(jobs.c.site == bindparam("site"), jobs.c.source.in_(bindparam("sources", expanding=True)), _BUSY)
    .where(*runnable())
)  # fmt: skip
"""Jobs that an appliance could run, whatever their state, with what it must know of their plans and groups."""
_NEXT_CYCLE = _next(_CYCLES.where(QUEUED_CYCLES), jobs, groups)
_WORK = select(jobs.c.id, jobs.c.kind, jobs.c.epoch, jobs.c.attempts, jobs.c.arguments)
_NEXT_WORK = _next(_WORK.where(QUEUED_WORK, jobs.c.connector == bindparam("connector")), jobs)
_RAISED = update(groups).where(groups.c.id == bindparam("group")).values(epoch=groups.c.epoch + 1)
_RAISED = _RAISED.returning(groups.c.epoch)


def claim(
    connection: Connection,
    now: datetime,
    node: Row[Any],
    poll: PollRequest,
    tickets: TicketDesk,
    settings: LeaseSettings,
) -> Job | ConnectorJob | None:
    """The next job for a node of the table `nodes`, leased to it; None: there is none that it may have.

    Leases that ran out are taken back first, and those of an earlier process of the same node. A lease that this
    process has never heard of is handed out once more, as it is.
    """
    leases.reap(connection, now)
    unheard = _settle_strays(connection, now, node.id, poll)
    if not poll.slots:
        return None
    if node.role == Role.APPLIANCE:
        again = _again(connection, now, node, poll, tickets, unheard)
        return again or _claim_cycle(connection, now, node, poll, tickets, settings)
    return _work_again(connection, now, unheard) or _claim_work(connection, now, node, poll, settings)


def _settle_strays(connection: Connection, now: datetime, node: str, poll: PollRequest) -> list[UUID]:
    """Take back what an earlier process held: one that is gone finishes nothing. Returns jobs this one may not know.

    Those were the answer to a poll, and the answer was lost on its way: else the process would have said that it has
    them. A connector that has one all the same, and was only slow to say so, takes it for the one that it has.
    """
    asked = {
        "node": node, "incarnation": poll.incarnation, "busy": list(poll.busy),
        "before": now - timedelta(seconds=UNHEARD_S),
    }  # fmt: skip
    found = connection.execute(_STRAYS, asked).all()
    for stray in sorted(found, key=lambda each: str(each.group)):  # groups are locked by their ids, here as everywhere
        if stray.incarnation != poll.incarnation and (job := attempts.lock(connection, stray.id)):
            attempts.lost(connection, now, job, at_once=True)
    return [job.id for job in found if job.incarnation == poll.incarnation]


def _again(
    connection: Connection, now: datetime, node: Row[Any], poll: PollRequest, tickets: TicketDesk, unheard: list[UUID]
) -> Job | None:
    """A lease of this very process, with a new ticket. It ends when it would have: this answer may get lost, too."""
    if not unheard:
        return None
    again = _CYCLES.where(jobs.c.id.in_(unheard)).limit(1)
    job = connection.execute(again, _asked(now, node, poll)).one_or_none()
    if job is None:
        return None
    attempts.change(connection, job.id, {"leased_at": now, "counter_at": now})
    return _handed_out(now, job, job.epoch, node, tickets)


def _work_again(connection: Connection, now: datetime, unheard: list[UUID]) -> ConnectorJob | None:
    """As `_again`, of a connector's."""
    job = connection.execute(_WORK.where(jobs.c.id.in_(unheard)).limit(1)).one_or_none() if unheard else None
    if job is None:
        return None
    attempts.change(connection, job.id, {"leased_at": now, "counter_at": now})
    return ConnectorJob(job=job.id, kind=job.kind, epoch=job.epoch, **job.arguments)


def _claim_cycle(
    connection: Connection,
    now: datetime,
    node: Row[Any],
    poll: PollRequest,
    tickets: TicketDesk,
    settings: LeaseSettings,
) -> Job | None:
    job = connection.execute(_NEXT_CYCLE, _asked(now, node, poll)).one_or_none()
    if job is None:
        return None
    epoch = connection.execute(_RAISED, {"group": job.group}).scalar_one()
    _lease(connection, now, job, node, poll, epoch, settings)
    return _handed_out(now, job, epoch, node, tickets)


def _asked(now: datetime, node: Row[Any], poll: PollRequest) -> dict[str, Any]:
    return {"now": now, "site": node.site, "sources": list(poll.sources), "busy": list(poll.busy)}


def _handed_out(now: datetime, job: Row[Any], epoch: int, node: Row[Any], tickets: TicketDesk) -> Job:
    ticket = tickets.mint(
        now, plan=job.plan, group=job.group, cycle=job.cycle, epoch=epoch, node=node.id, connector=job.connector
    )
    return Job(
        job=job.id, ticket=ticket, plan=job.plan, group=job.group, cycle=job.cycle, epoch=epoch,
        connector=job.connector, machines=tuple(job.machines), source=job.source, target=job.target,
        codec=Codec(job.codec), resync=Rung(job.resync) if job.resync else None,
        against_source=bool(job.arguments.get("against_source")),
    )  # fmt: skip


def _claim_work(
    connection: Connection, now: datetime, node: Row[Any], poll: PollRequest, settings: LeaseSettings
) -> ConnectorJob | None:
    job = connection.execute(_NEXT_WORK, {"now": now, "connector": node.id}).one_or_none()
    if job is None:
        return None
    epoch = job.attempts + 1
    _lease(connection, now, job, node, poll, epoch, settings)
    return ConnectorJob(job=job.id, kind=job.kind, epoch=epoch, **job.arguments)


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
    attempts.change(connection, job.id, {
        "state": JobState.LEASED, "node": node.id, "incarnation": poll.incarnation, "epoch": epoch,
        "attempts": job.attempts + 1, "lease_until": until, "leased_at": now, "started_at": None, "stage": None,
        "counter": 0, "counter_at": now, "stalled": False, "progress": {},
        "stated_before": node.statement,
    })  # fmt: skip
