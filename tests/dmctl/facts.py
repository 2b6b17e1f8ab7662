"""What a control plane could answer, with what a test cares about changed."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from dmcore.api.client_errors import ControlRefused
from dmcore.api.jobs import JobView, Progress
from dmcore.api.nodes import NodeView
from dmcore.api.operators import OperatorRole, TokenView
from dmcore.api.plans import GroupView
from dmcore.api.points import PointView
from dmcore.model.enums import Consistency, Role, Rung
from dmcore.model.ids import NodeId
from dmcore.model.jobs import JobKind, JobState
from dmcore.model.points import PointState

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
APPLIANCE, CONNECTOR = NodeId("a1" * 32), NodeId("c0" * 32)
CONTROL = UUID(int=7)

_numbers = itertools.count(1)


def some_id(beginning: str = "") -> UUID:
    """Like no other before; of this beginning."""
    return UUID((beginning + f"{next(_numbers):032x}"[len(beginning) :]).ljust(32, "0"))


def a_job(**changes: Any) -> JobView:
    """A cycle that waits."""
    facts: dict[str, Any] = {
        "id": some_id(), "kind": JobKind.CYCLE, "state": JobState.QUEUED, "plan": UUID(int=1), "plan_name": "web",
        "group": UUID(int=2), "machines": ("web1",), "cycle": UUID(int=3), "node": None, "epoch": 0, "attempts": 0,
        "offline": False, "due_at": NOW, "started_at": None, "ended_at": None, "cancelling": False,
        "progress": Progress(), "rate_bytes_s": None, "eta_s": None, "problem": None, "point": None,
        "source_time": None, "seconds": {}, "points": (),
    }  # fmt: skip
    return JobView(**facts | changes)


def a_point(**changes: Any) -> PointView:
    """A good one."""
    facts: dict[str, Any] = {
        "id": some_id(), "plan": UUID(int=1), "group": UUID(int=2), "cycle": UUID(int=3), "source_time": NOW,
        "consistency": Consistency.CRASH, "state": PointState.AVAILABLE, "disks": 2, "rungs": (Rung.DELTA,),
        "connector": CONNECTOR,
    }  # fmt: skip
    return PointView(**facts | changes)


def a_group(**changes: Any) -> GroupView:
    """One without a point that waits."""
    facts: dict[str, Any] = {
        "id": some_id(), "machines": ("web1",), "epoch": 0, "last_point": None, "last_point_time": None, "lag_s": None,
        "breached": False, "next_start": None, "job": None, "job_state": None, "backlog_bytes": None, "eta_s": None,
        "achievable_rpo_s": None, "problem": None,
    }  # fmt: skip
    return GroupView(**facts | changes)


def a_node(node: NodeId, role: Role, **changes: Any) -> NodeView:
    """A live one."""
    facts: dict[str, Any] = {
        "node": node, "site": "paris", "role": role, "version": "0.1.0", "enrolled_at": NOW, "seen_at": NOW,
        "live": True, "revoked": False, "sources": (), "targets": (), "recoveries": (),
    }  # fmt: skip
    return NodeView(**facts | changes)


def refused(code: str, message: str = "no") -> ControlRefused:
    """What the client makes of an answer that is not 2xx."""
    return ControlRefused(reason=code, message=message, status=409)


def a_token(name: str, role: OperatorRole, **changes: Any) -> TokenView:
    """A good one."""
    facts = {"id": uuid4(), "created_at": NOW, "expires_at": NOW, "revoked": False, "used_at": None}
    return TokenView(**{"name": name, "role": role, **facts, **changes})


def running(job: JobView, **progress: Any) -> JobView:
    """The same, a step further."""
    return job.model_copy(
        update={"state": JobState.RUNNING, "node": APPLIANCE, "progress": Progress(**progress), "attempts": 1}
    )


def completed(job: JobView, **changes: Any) -> JobView:
    """The same, done in 12 seconds."""
    times = {"started_at": NOW, "ended_at": NOW + timedelta(seconds=12)}
    return job.model_copy(update={"state": JobState.COMPLETED, "node": APPLIANCE, **times, **changes})
