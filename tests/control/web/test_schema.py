"""schemathesis over the OpenAPI document: whatever is sent, allowed or not, is answered as it says, never by 5xx."""

from collections import Counter
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Err

from dmcore.api.base import ErrorBody
from dmcore.control.store.database import Database
from dmcore.model.enums import Role
from tests.control.web_kit import PLAN, Answer, HandClock, NodeKit, Web, enrolled, make_plane

EXAMPLES = 12
"""Of each operation and mode. There are about forty."""
PROFILE = settings(
    max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
FOR_NODES = ("enroll", "poll", "plans", "jobs", "points", "offline")


class Target:
    """A control plane with one of everything, and requests to it."""

    def __init__(self, database: Database) -> None:
        self.clock = HandClock()
        self.web = Web(make_plane(database, self.clock))
        self.appliance = enrolled(self.web, Role.APPLIANCE, sources=["vms"])
        self.connector = enrolled(self.web, Role.CONNECTOR, targets=["shadows"], recoveries=["standby"])
        plan = self.web.ask("POST", "/v1/plans", PLAN).json["id"]
        job = self.web.ask("POST", f"/v1/plans/{plan}/run", {}).json["jobs"][0]["id"]
        token = self.web.ask("POST", "/v1/tokens", {"name": "a", "role": "viewer"}).json["id"]
        self.known = {
            "plan": plan, "job": job, "token": token, "node": self.connector.id, "name": "paris",
            "point": self._point(),
        }  # fmt: skip
        self.web.plane.waiters.close()  # no poll waits
        self.answered: Counter[int] = Counter()

    def _point(self) -> str:
        point, other = str(uuid4()), str(uuid4())
        fact = {
            "id": point, "plan": other, "group": other, "cycle": other, "source_time": self.clock.now.isoformat(),
            "consistency": "crash", "state": "available", "disks": 1,
        }  # fmt: skip
        assert self.connector.ask("POST", "/v1/nodes/points", {"points": [fact]}).status == 204
        return point

    def send(self, case: Case[Any]) -> Answer:
        asked = requests.Request(**_plain(case.as_transport_kwargs(base_url="https://control"))).prepare()
        body = asked.body.encode() if isinstance(asked.body, str) else bytes(asked.body or b"")  # type: ignore[arg-type]
        path, method = str(asked.path_url), str(asked.method)
        headers = {"Content-Type": asked.headers.get("Content-Type", "application/json")}
        if method in {"GET", "POST"} and any(case.path.startswith(f"/v1/nodes/{word}") for word in FOR_NODES):
            node: NodeKit = self.connector if case.path.endswith("/points") else self.appliance
            headers["Authorization"] = node.signature(method, path, body)
        else:
            headers["Authorization"] = f"Bearer {next(reversed(self.web.tokens.values()))}"
        return self.web.send(method, path, body, headers=headers)


def _plain(told: dict[str, Any]) -> dict[str, Any]:
    names = {"method", "url", "params", "data", "json", "files"}
    return {name: value for name, value in told.items() if name in names}


def checked(target: Target, operation: Any, mode: GenerationMode) -> Callable[[], None]:
    documented = set(operation.definition.raw["responses"])

    @settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(case=operation.as_strategy(generation_mode=mode), real=st.booleans())
    def check(case: Case[Any], real: bool) -> None:
        if real and case.path_parameters:
            case.path_parameters = {name: target.known[name] for name in case.path_parameters}
        answer = target.send(case)
        target.answered[answer.status] += 1
        assert answer.status < 500, (operation.label, case.body, answer.body)
        assert str(answer.status) in documented | {"405"}, (operation.label, answer.status)
        if answer.status >= 400:
            ErrorBody.model_validate_json(answer.body)

    return check


@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_no_request_is_a_fault(sqlite_database: Database, mode: GenerationMode) -> None:
    target = Target(sqlite_database)
    schema = schemathesis.openapi.from_dict(target.web.app.openapi())
    operations = [found.ok() for found in schema.get_all_operations() if not isinstance(found, Err)]
    assert len(operations) > 35
    for operation in sorted(operations, key=lambda each: each.method == "delete"):
        if mode is GenerationMode.POSITIVE or operation.body or operation.path_parameters or operation.query:
            checked(target, operation, mode)()
    reached = {200, 201, 202, 204, 404, 409} if mode is GenerationMode.POSITIVE else {404, 422}
    assert reached <= target.answered.keys()
