"""A plan's machines in groups. A group that is taken out keeps its row: if it comes back, its epoch goes on."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from dmcore.api.plans import GroupMode
from dmcore.control.errors import MachineProtected
from dmcore.control.schedule.replanning import replan
from dmcore.control.store.tables import HELD, IN_FLIGHT, QUEUED_CYCLES, groups, jobs, machines, plans, sites
from dmcore.model.jobs import JobState


def living_groups(connection: Connection, plan: UUID) -> dict[UUID, list[str]]:
    """The groups of a plan and their machines, oldest first."""
    living = (groups.c.plan == plan, groups.c.deleted_at.is_(None))
    rows = connection.execute(select(groups).where(*living).order_by(groups.c.created_at, groups.c.id))
    return {row.id: row.machines for row in rows}


def protect(connection: Connection, now: datetime, plan: Row[Any], labels: Sequence[str]) -> None:
    """Make these the plan's machines. New groups are due at once; what runs for those taken out is cancelled.

    Raises:
        MachineProtected: another plan has one of them.
    """
    _require_free(connection, plan, labels)
    wanted = [list(labels)] if plan.group_mode == GroupMode.PLAN else [[label] for label in labels]
    there = living_groups(connection, plan.id)
    if plan.group_mode == GroupMode.PLAN and there:
        (group,) = there  # it stays itself, whatever its machines
        connection.execute(update(groups).where(groups.c.id == group).values(machines=wanted[0]))
        kept = {group: wanted[0]}
    else:
        asked = {tuple(each) for each in wanted}
        kept = {group: found for group, found in there.items() if tuple(found) in asked}
        gone, named = [group for group in there if group not in kept], {tuple(each) for each in kept.values()}
        _take_out(connection, now, gone)
        kept |= _put_in(connection, now, plan, [each for each in wanted if tuple(each) not in named])
        replan(connection, now, [*gone, *kept])
    _note_machines(connection, plan, kept)


def release(connection: Connection, now: datetime, plan: Row[Any]) -> None:
    """The plan is deleted: its machines are free for another."""
    gone = list(living_groups(connection, plan.id))
    _take_out(connection, now, gone)
    replan(connection, now, gone)
    connection.execute(delete(machines).where(machines.c.plan == plan.id))


def _require_free(connection: Connection, plan: Row[Any], labels: Sequence[str]) -> None:
    # The site's lock: of two plans that want the same machine at once, the second one sees the first one's.
    connection.execute(select(sites.c.name).where(sites.c.name == plan.site).with_for_update(key_share=True))
    same = (machines.c.site == plan.site, machines.c.source == plan.source, machines.c.plan != plan.id)
    others = select(machines.c.label, plans.c.name).join(plans, plans.c.id == machines.c.plan)
    taken = connection.execute(others.where(*same, machines.c.label.in_(labels)).order_by(machines.c.label)).first()
    if taken is not None:
        raise MachineProtected(machine=taken.label, plan=taken.name)


def _take_out(connection: Connection, now: datetime, gone: Sequence[UUID]) -> None:
    """What waits of them is over at once; a node that has some of it is told by its next heartbeat."""
    connection.execute(update(groups).where(groups.c.id.in_(gone)).values(deleted_at=now))
    theirs = (IN_FLIGHT, jobs.c.group.in_(gone))
    started = func.coalesce(jobs.c.started_at, jobs.c.leased_at)
    over = {"state": JobState.CANCELLED, "ended_at": now, "started_at": started}
    connection.execute(update(jobs).where(*theirs, HELD).values(cancelling=True))
    connection.execute(update(jobs).where(*theirs, QUEUED_CYCLES).values(**over))


def _put_in(
    connection: Connection, now: datetime, plan: Row[Any], wanted: Sequence[list[str]]
) -> dict[UUID, list[str]]:
    """New groups, or those that these machines were before in this plan."""
    former = select(groups.c.id, groups.c.machines).where(groups.c.plan == plan.id, groups.c.deleted_at.is_not(None))
    known = {tuple(row.machines): row.id for row in connection.execute(former)} if wanted else {}
    back = {known[tuple(each)]: each for each in wanted if tuple(each) in known}
    new = {uuid4(): each for each in wanted if tuple(each) not in known}
    fresh = {"deleted_at": None, "created_at": now, "failures": 0, "problem": None}
    if back:
        connection.execute(update(groups).where(groups.c.id.in_(back)).values(**fresh))
    if new:
        rows = [{"id": group, "plan": plan.id, "machines": labels, **fresh} for group, labels in new.items()]
        connection.execute(insert(groups), rows)
    return back | new


def _note_machines(connection: Connection, plan: Row[Any], kept: dict[UUID, list[str]]) -> None:
    connection.execute(delete(machines).where(machines.c.plan == plan.id))
    rows = [
        {"site": plan.site, "source": plan.source, "label": label, "plan": plan.id, "group": group}
        for group, labels in kept.items() for label in labels
    ]  # fmt: skip
    connection.execute(insert(machines), rows)
