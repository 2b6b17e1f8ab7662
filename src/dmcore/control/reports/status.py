"""What is going on, and what is wrong: a plan's line, a group's numbers. Few queries, however many plans there are."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Row, Select, TextClause, func, select, tuple_

from dmcore.api.jobs import Progress
from dmcore.api.plans import GroupView, NodeStatus, PlanStatus, Status
from dmcore.control.errors import NotFound
from dmcore.control.queue.jobs import eta_s
from dmcore.control.queue.shares import is_live
from dmcore.control.store.tables import HELD, IN_FLIGHT, QUEUED_CYCLES, QUEUED_WORK, groups, jobs, nodes, plans
from dmcore.model.jobs import JobKind, JobState

MAX_LISTED = 500
PLANS_AT_ONCE = 1000
"""Ids in one query: databases take only so many parameters."""


def status(
    connection: Connection, now: datetime, *, limit: int = MAX_LISTED, plans_after: UUID | None = None,
    nodes_after: str | None = None,
) -> Status:  # fmt: skip
    """One screen: every plan that was not deleted, and every node that was not revoked; so many of each at most.

    Raises:
        NotFound: there never was such a plan or node to list those after it.
    """
    size = max(1, min(limit, MAX_LISTED))
    page = page_of_plans(connection, select(plans.c.id), plans_after).limit(size + 1)
    shown, found = connection.execute(page).scalars().all(), _nodes(connection, now, nodes_after, size + 1)
    return Status(
        now=now,
        plans=plan_statuses(connection, now, shown[:size]),
        more_plans=len(shown) > size,
        nodes=found[:size],
        more_nodes=len(found) > size,
        queued=count_jobs(connection, QUEUED_CYCLES) + count_jobs(connection, QUEUED_WORK),
        running=count_jobs(connection, HELD),
    )


def page_of_plans(connection: Connection, asked: Select[Any], after: UUID | None) -> Select[Any]:
    """The plans that were not deleted, by name, from behind this one on. Raises NotFound: there never was that one."""
    living = asked.where(plans.c.deleted_at.is_(None)).order_by(plans.c.name, plans.c.id)
    if after is None:
        return living
    last = connection.execute(select(plans.c.name, plans.c.id).where(plans.c.id == after)).one_or_none()
    if last is None:
        raise NotFound(noun="plan", name=str(after))
    return living.where(tuple_(plans.c.name, plans.c.id) > tuple_(*last))


def plan_statuses(
    connection: Connection, now: datetime, plan_ids: Sequence[UUID] | None = None
) -> tuple[PlanStatus, ...]:
    """Each plan's line, by name; of all, or of these."""
    totals = (
        func.count(groups.c.id).label("groups"),
        func.min(groups.c.last_point_time).label("last_point_time"),
        func.count(groups.c.id).filter(groups.c.breached).label("breached"),
        func.max(groups.c.achievable_rpo_s).label("achievable_rpo_s"),
    )
    joined = plans.outerjoin(groups, (groups.c.plan == plans.c.id) & groups.c.deleted_at.is_(None))
    lines = select(plans.c.id, plans.c.name, plans.c.paused, plans.c.rpo_s, *totals).select_from(joined)
    lines = lines.where(plans.c.deleted_at.is_(None)).group_by(plans.c.id).order_by(plans.c.name)
    lines = lines if plan_ids is None else lines.where(plans.c.id.in_(plan_ids))
    running, problems = _running(connection), _problems(connection)
    return tuple(
        PlanStatus(
            **row, running=running.get(row["id"], 0), lag_s=lag_s(now, row["last_point_time"]),
            problems=tuple(sorted(problems[row["id"]])),
        )
        for row in connection.execute(lines).mappings()
    )  # fmt: skip


def group_views(connection: Connection, now: datetime, plan_ids: Iterable[UUID]) -> dict[UUID, tuple[GroupView, ...]]:
    """How the groups of these plans are doing; a plan without one has an empty entry."""
    found: dict[UUID, list[GroupView]] = {plan: [] for plan in plan_ids}
    for some in _in_batches(found):
        chosen = (groups.c.plan.in_(some), groups.c.deleted_at.is_(None))
        running = {row.group: row for row in connection.execute(select(jobs).where(IN_FLIGHT, jobs.c.plan.in_(some)))}
        for row in connection.execute(select(groups).where(*chosen).order_by(groups.c.created_at, groups.c.id)):
            found[row.plan].append(_group_view(now, row, running.get(row.id)))
    return {plan: tuple(views) for plan, views in found.items()}


def lag_s(now: datetime, last_point_time: datetime | None) -> float | None:
    """How old a point is; None: there is none."""
    return None if last_point_time is None else max((now - last_point_time).total_seconds(), 0.0)


def backlog_bytes(state: JobState, progress: Progress) -> int | None:
    """What a cycle has still to read. None: it does not run, or does not know yet."""
    if state != JobState.RUNNING or not progress.total_bytes:
        return None
    return max(progress.total_bytes - progress.done_bytes, 0)


def count_jobs(connection: Connection, which: TextClause) -> int:
    """How many are so."""
    return int(connection.execute(select(func.count()).select_from(jobs).where(which)).scalar_one())


def _group_view(now: datetime, group: Row[Any], job: Row[Any] | None) -> GroupView:
    progress = Progress.model_validate(job.progress) if job else Progress()
    return GroupView(
        id=group.id, machines=tuple(group.machines), epoch=group.epoch, last_point=group.last_point,
        last_point_time=group.last_point_time, lag_s=lag_s(now, group.last_point_time), breached=group.breached,
        next_start=group.next_start, job=job.id if job else None, job_state=JobState(job.state) if job else None,
        backlog_bytes=backlog_bytes(JobState(job.state), progress) if job else None,
        eta_s=eta_s(now, job, progress) if job else None, achievable_rpo_s=group.achievable_rpo_s,
        problem=group.problem,
    )  # fmt: skip


def _running(connection: Connection) -> dict[UUID, int]:
    held = (
        select(jobs.c.plan, func.count().label("running"))
        .where(HELD, jobs.c.kind == JobKind.CYCLE)
        .group_by(jobs.c.plan)
    )
    return {row.plan: row.running for row in connection.execute(held)}


def _problems(connection: Connection) -> dict[UUID, set[str]]:
    found: dict[UUID, set[str]] = defaultdict(set)
    living = (groups.c.problem.is_not(None), groups.c.deleted_at.is_(None))
    for plan, problem in connection.execute(select(groups.c.plan, groups.c.problem).where(*living)):
        found[plan].add(problem)
    return found


def _nodes(connection: Connection, now: datetime, after: str | None, limit: int) -> tuple[NodeStatus, ...]:
    asked = select(nodes).where(nodes.c.revoked_at.is_(None)).order_by(nodes.c.site, nodes.c.id).limit(limit)
    if after is not None:
        last = connection.execute(select(nodes.c.site, nodes.c.id).where(nodes.c.id == after)).one_or_none()
        if last is None:
            raise NotFound(noun="node", name=after)
        asked = asked.where(tuple_(nodes.c.site, nodes.c.id) > tuple_(*last))
    rows = connection.execute(asked)
    return tuple(
        NodeStatus(node=row.id, site=row.site, role=row.role, live=is_live(now, row.seen_at), seen_at=row.seen_at)
        for row in rows
    )


def _in_batches(ids: Iterable[UUID]) -> Iterator[Sequence[UUID]]:
    known = list(ids)
    return (known[start : start + PLANS_AT_ONCE] for start in range(0, len(known), PLANS_AT_ONCE))
