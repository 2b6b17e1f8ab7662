"""What operators ask of connectors: a job, told of in the audit log, its connector woken."""

from uuid import UUID

from sqlalchemy import Connection, select

from dmcore.api.jobs import JobView
from dmcore.api.operators import Action
from dmcore.control.access import audit, enrolment
from dmcore.control.access.operators import Operator
from dmcore.control.errors import AliasNowhere
from dmcore.control.index import points
from dmcore.control.plane import Plane
from dmcore.control.queue import jobs
from dmcore.control.queue.queue import QueueKey, enqueue_work
from dmcore.control.store.tables import nodes
from dmcore.model.enums import Role
from dmcore.model.jobs import JobKind
from dmcore.model.points import PointState

ACTIONS = {
    JobKind.VERIFY: Action.POINT_VERIFY,
    JobKind.RECOVER: Action.POINT_RECOVER,
    JobKind.PRESERVE: Action.POINT_PRESERVE,
    JobKind.EXPIRE: Action.POINT_DELETE,
}
ALLOWED = dict.fromkeys(ACTIONS, points.USABLE) | {JobKind.EXPIRE: points.USABLE | {PointState.FAILED}}
"""A point that failed can still be let go."""


def ask_of_point(
    plane: Plane,
    operator: Operator,
    kind: JobKind,
    point: UUID,
    *,
    to: str | None = None,
    preserved: bool | None = None,
    sample_percent: float | None = None,
) -> JobView:
    """A job about one point, for its connector.

    Raises:
        NotFound: no such point, or its connector is enrolled no more.
        StateConflict: the point's state forbids it.
        AliasNowhere: the connector has no such place to recover to.
    """
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        row = points.require_point(connection, point, ALLOWED[kind])
        enrolment.require_connector(connection, row.connector)
        if to is not None:
            _require_recovery(connection, row.connector, to)
        job = enqueue_work(
            connection, now, row.connector, kind, points=[point], to=to, preserved=preserved,
            sample_percent=sample_percent, plan=row.plan,
        )  # fmt: skip
        detail = {"to": to, "preserved": preserved, "sample_percent": sample_percent}
        audit.append(connection, now, operator.actor, ACTIONS[kind], point, job=job, **detail)
        asked = jobs.view(connection, now, job)
    plane.waiters.wake([QueueKey.work(row.connector)])
    return asked


def ask_index(plane: Plane, operator: Operator, connector: str) -> JobView:
    """A job for a connector to state all its points again. Raises NotFound: there is no such connector."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        enrolment.require_connector(connection, connector)
        job = enqueue_work(connection, now, connector, JobKind.INDEX)
        audit.append(connection, now, operator.actor, Action.INDEX_REBUILD, connector, job=job)
        asked = jobs.view(connection, now, job)
    plane.waiters.wake([QueueKey.work(connector)])
    return asked


def _require_recovery(connection: Connection, connector: str, alias: str) -> None:
    known = connection.execute(select(nodes.c.recoveries).where(nodes.c.id == connector)).scalar_one()
    if alias not in known:
        raise AliasNowhere(role=Role.CONNECTOR, noun="recovery", alias=alias)
