"""Plans: made, edited, paused, resumed, deleted, run. What each means to its groups is in `grouping`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, insert, select, update
from sqlalchemy.exc import IntegrityError

from dmcore.api.operators import Action
from dmcore.api.plans import PlanEdit, PlanSpec, RunRequest
from dmcore.control.access import audit
from dmcore.control.errors import NameTaken, NotFound, RequestInvalid, StateConflict
from dmcore.control.plans import grouping
from dmcore.control.plans.resolving import resolve
from dmcore.control.queue.queue import AGAINST_SOURCE, QueueKey, enqueue_cycles
from dmcore.control.schedule import sampling
from dmcore.control.schedule.replanning import replan
from dmcore.control.store.tables import IN_FLIGHT, groups, jobs, plans
from dmcore.model.ids import PlanId


def create(connection: Connection, now: datetime, spec: PlanSpec, actor: str) -> PlanId:
    """A new plan; its groups are due at once.

    Raises:
        NotFound, AliasNowhere, AliasAmbiguous: as `resolve`.
        NameTaken: there is a plan of this name.
        MachineProtected: another plan has one of its machines.
    """
    site, connector = resolve(connection, spec)
    plan = uuid4()
    kept = spec.model_dump(mode="json", include={"retain", "limit"})
    values = spec.model_dump(include={"name", "source", "target", "rpo_s", "codec", "group_mode"})
    kept["verify_percent"] = spec.verify.percent_per_day
    new = insert(plans).values(id=plan, site=site, connector=connector, created_at=now, **values, **kept)
    _write(connection, new, spec.name)
    row = _locked(connection, plan)
    grouping.protect(connection, now, row, spec.machines)
    sampling.arrange(connection, now, plan)
    audit.append(connection, now, actor, Action.PLAN_CREATED, spec.name, id=plan)
    return PlanId(plan)


def edit(connection: Connection, now: datetime, plan: UUID, change: PlanEdit, actor: str) -> None:
    """What the edit names becomes so, for the cycles to come.

    Raises:
        NotFound: no such plan. NameTaken: another one has this name.
        RequestInvalid: a machine is named twice.
        MachineProtected: another plan has one of its machines.
    """
    row = _locked(connection, plan)
    told = change.model_dump(mode="json", exclude={"machines", "verify"})
    told["verify_percent"] = change.verify and change.verify.percent_per_day
    given = {name: value for name, value in told.items() if value is not None}
    changed = update(plans).where(plans.c.id == plan).values(version=plans.c.version + 1, **given)
    _write(connection, changed, change.name)
    if change.machines is not None:
        if len(set(change.machines)) < len(change.machines):
            raise RequestInvalid(problem="machines: a machine is named twice")
        grouping.protect(connection, now, row, change.machines)
    _replan(connection, now, plan)
    sampling.arrange(connection, now, plan)
    named = given.keys() | ({"machines"} if change.machines is not None else set())
    audit.append(connection, now, actor, Action.PLAN_EDITED, row.name, id=plan, changed=", ".join(sorted(named)))


def pause(connection: Connection, now: datetime, plan: UUID, actor: str, *, paused: bool) -> None:
    """Begin no more cycles, and have the running ones wait; or go on. Repeating it changes nothing.

    Raises:
        NotFound: no such plan.
    """
    row = _locked(connection, plan)
    if row.paused == paused:
        return
    connection.execute(update(plans).where(plans.c.id == plan).values(paused=paused, version=plans.c.version + 1))
    _replan(connection, now, plan)
    action = Action.PLAN_PAUSED if paused else Action.PLAN_RESUMED
    audit.append(connection, now, actor, action, row.name, id=plan)


def delete(connection: Connection, now: datetime, plan: UUID, actor: str) -> None:
    """No more cycles; what runs is cancelled. Its recovery points stay, and so do its shadows.

    Raises:
        NotFound: no such plan.
    """
    row = _locked(connection, plan)
    connection.execute(update(plans).where(plans.c.id == plan).values(deleted_at=now, version=plans.c.version + 1))
    grouping.release(connection, now, row)
    audit.append(connection, now, actor, Action.PLAN_DELETED, row.name, id=plan)


def run(
    connection: Connection, now: datetime, plan: UUID, request: RunRequest, actor: str
) -> tuple[QueueKey, list[UUID]]:
    """Its groups' cycles now: their queue, and the jobs that this makes or that are in flight already.

    Raises:
        NotFound: no such plan, or no such group of it.
        StateConflict: the plan is paused; or it is to be verified, and a cycle runs that does not.
    """
    row = _locked(connection, plan)
    if row.paused:
        raise StateConflict(noun="plan", name=row.name, state="paused", problem="resume it first")
    living = grouping.living_groups(connection, plan)
    chosen: list[UUID] = [*dict.fromkeys(request.groups)] or [*living]
    for group in chosen:
        if group not in living:
            raise NotFound(noun="group", name=str(group))
    if request.against_source:
        _turn_to_source(connection, row.name, chosen)
    made = _run_groups(connection, now, chosen, request)
    wish = {"resync": request.resync and request.resync.value, "against_source": request.against_source or None}
    audit.append(connection, now, actor, Action.PLAN_RUN, row.name, id=plan, groups=len(made), **wish)
    return QueueKey.cycles(row.site, row.source), made


def _run_groups(connection: Connection, now: datetime, chosen: Sequence[UUID], request: RunRequest) -> list[UUID]:
    """Their jobs, in this order: new ones, or those in flight."""
    found = enqueue_cycles(
        connection, now, chosen, due_at=now, resync=request.resync, against_source=request.against_source
    )
    in_flight = select(jobs.c.group, jobs.c.id).where(IN_FLIGHT, jobs.c.group.in_(chosen))
    found |= {row.group: row.id for row in connection.execute(in_flight)}
    return [found[group] for group in chosen]


def _turn_to_source(connection: Connection, name: str, chosen: Sequence[UUID]) -> None:
    """What waits of these groups verifies, too, unless an attempt has begun it: then it is another cycle's turn."""
    flying = select(jobs.c.id, jobs.c.attempts, jobs.c.arguments).where(IN_FLIGHT, jobs.c.group.in_(chosen))
    others = [job for job in connection.execute(flying) if not job.arguments.get("against_source")]
    if any(job.attempts for job in others):
        raise StateConflict(noun="plan", name=name, state="running a cycle", problem="say it again when that has ended")
    waiting = jobs.c.id.in_([job.id for job in others])
    connection.execute(update(jobs).where(waiting).values(arguments=AGAINST_SOURCE))


def _living() -> Any:
    return select(plans).where(plans.c.deleted_at.is_(None))


def _locked(connection: Connection, plan: UUID) -> Row[Any]:
    """The plan, its jobs in flight and its groups: jobs first, as nodes' words lock them, else two could deadlock."""
    found = _living().where(plans.c.id == plan).with_for_update(key_share=True)
    row: Row[Any] | None = connection.execute(found).one_or_none()
    if row is None:
        raise NotFound(noun="plan", name=str(plan))
    for table, mine in ((jobs, (IN_FLIGHT, jobs.c.plan == plan)), (groups, (groups.c.plan == plan,))):
        connection.execute(select(table.c.id).where(*mine).order_by(table.c.id).with_for_update()).all()
    return row


def _write(connection: Connection, statement: Any, name: str | None) -> None:
    try:
        connection.execute(statement)
    except IntegrityError as taken:  # its name is all that can clash
        raise NameTaken(noun="plan", name=name or "") from taken


def _replan(connection: Connection, now: datetime, plan: UUID) -> None:
    replan(connection, now, list(grouping.living_groups(connection, plan)))
