"""Nodes' signatures over HTTP: good for one request, once, now, by the key that was enrolled."""

from uuid import UUID

import jwt
import pytest
from sqlalchemy import select

from dmcore.api.operators import EventKind
from dmcore.api.signing import ALGORITHM, TYPE
from dmcore.control.store.database import Database
from dmcore.control.store.tables import events
from dmcore.model.enums import Role
from tests.control.web_kit import CONTROL, HandClock, NodeKit, Web, enrolled

ID = "00000000-0000-4000-8000-000000000001"
PLANS = ("GET", "/v1/nodes/plans")


@pytest.fixture
def node(web: Web) -> NodeKit:
    return enrolled(web, Role.APPLIANCE, sources=["vms"])


def test_a_signed_request_is_answered(node: NodeKit) -> None:
    assert node.ask(*PLANS).status == 200


def test_a_signature_is_good_once(web: Web, node: NodeKit) -> None:
    headers = {"Authorization": node.signature(*PLANS, b"")}
    assert web.send(*PLANS, headers=headers).status == 200
    again = web.send(*PLANS, headers=headers)
    assert (again.status, again.code) == (401, "auth.signature")


def test_a_flipped_bit_is_refused(web: Web, node: NodeKit) -> None:
    signed = node.signature(*PLANS, b"")
    head, payload, signature = signed.split(".")
    flipped = "A" if signature[5] != "A" else "B"
    forged = [
        f"{head}.{payload}.{signature[:5]}{flipped}{signature[6:]}",
        f"{head}.{payload[:-4]}.{signature}",
        f"{head}.{payload}.",
        f"{head}.{payload}",
        "Node ",
        "Node " + "x" * 5000,
    ]
    for header in forged:
        assert web.send(*PLANS, headers={"Authorization": header}).code == "auth.signature", header


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_another_algorithm_is_refused(web: Web, node: NodeKit, algorithm: str) -> None:
    payload = jwt.decode(node.signature(*PLANS, b"").split(" ")[1], options={"verify_signature": False})
    secret = "" if algorithm == "none" else node.public_key.hex()
    token = jwt.encode(payload, secret, algorithm=algorithm, headers={"typ": TYPE})
    assert web.send(*PLANS, headers={"Authorization": f"Node {token}"}).code == "auth.signature"


def test_another_nodes_key_is_refused(web: Web, node: NodeKit) -> None:
    other = NodeKit(web, Role.APPLIANCE)
    payload = jwt.decode(node.signature(*PLANS, b"").split(" ")[1], options={"verify_signature": False})
    token = jwt.encode(payload, other.key, algorithm=ALGORITHM, headers={"typ": TYPE})
    assert web.send(*PLANS, headers={"Authorization": f"Node {token}"}).code == "auth.signature"


@pytest.mark.parametrize(
    ("method", "path", "body", "audience"),
    [
        ("POST", "/v1/nodes/plans", b"", CONTROL),
        ("GET", "/v1/nodes/plans?x=1", b"", CONTROL),
        ("GET", "/v1/nodes/poll", b"", CONTROL),
        ("GET", "/v1/nodes/plans", b"{}", CONTROL),
        ("GET", "/v1/nodes/plans", b"", UUID(ID)),
    ],
    ids=["method", "query", "path", "body", "control"],
)
def test_a_signature_is_for_one_request(
    web: Web, node: NodeKit, method: str, path: str, body: bytes, audience: UUID
) -> None:
    headers = {"Authorization": node.signature(method, path, body, audience=audience)}
    assert web.send(*PLANS, headers=headers).code == "auth.signature"


@pytest.mark.parametrize("off_s", [600, -600, 31, -31])
def test_a_clock_that_is_off_is_told_how_much(
    web: Web, node: NodeKit, clock: HandClock, sqlite_database: Database, off_s: int
) -> None:
    wrong = HandClock(clock.now)
    wrong.forward(off_s)
    node.clock = wrong
    answer = node.ask(*PLANS)
    assert (answer.status, answer.code) == (401, "clock.skewed")
    assert str(off_s) in answer.json["message"]
    assert answer.headers["date"] == clock.now.strftime("%a, %d %b %Y %H:%M:%S GMT")
    node.ask(*PLANS)
    with sqlite_database.read() as connection:
        rows = connection.execute(select(events.c.value).where(events.c.kind == EventKind.CLOCK_SKEWED)).scalars().all()
    assert rows == [abs(off_s)]  # once, not with each request


def test_an_expired_signature_is_refused(web: Web, node: NodeKit, clock: HandClock) -> None:
    payload = jwt.decode(node.signature(*PLANS, b"").split(" ")[1], options={"verify_signature": False})
    token = jwt.encode(
        payload | {"exp": payload["iat"] + 5}, node.key, algorithm=ALGORITHM, headers={"typ": TYPE}
    )  # fmt: skip
    clock.forward(10)
    assert web.send(*PLANS, headers={"Authorization": f"Node {token}"}).code == "auth.signature"


def test_a_revoked_node_is_unknown(web: Web, node: NodeKit) -> None:
    assert web.ask("DELETE", f"/v1/nodes/{node.id}").status == 204
    answer = node.ask(*PLANS)
    assert (answer.status, answer.code) == (401, "node.unknown")
    assert NodeKit(web, Role.APPLIANCE).ask(*PLANS).code == "node.unknown"


def test_a_node_may_what_its_role_may(web: Web, node: NodeKit) -> None:
    assert node.ask("POST", "/v1/nodes/points", {"points": []}).code == "auth.role"
    connector = enrolled(web, Role.CONNECTOR)
    assert connector.ask("POST", "/v1/nodes/points", {"points": []}).status == 204
    assert connector.ask("POST", "/v1/nodes/offline", {"cycles": []}).code == "auth.role"


def test_tokens_and_signatures_are_not_exchangeable(web: Web, node: NodeKit) -> None:
    assert web.ask(*PLANS).status == 401
    assert node.ask("GET", "/v1/sites").status == 401


def test_a_node_whose_key_is_known_is_unknown_once_revoked(web: Web, node: NodeKit) -> None:
    """A key is kept, whether it counts is not: each of these reads that where it does what it is asked."""
    connector = enrolled(web, Role.CONNECTOR)
    assert connector.ask("POST", "/v1/nodes/points", {"points": []}).status == 204
    said = {"incarnation": ID, "epoch": 1, "progress": {}}
    outcome = {"incarnation": ID, "outcome": {"epoch": 1, "result": "completed"}}
    asked = [
        (node, "/v1/nodes/poll", node.poll_body()), (node, f"/v1/nodes/jobs/{ID}/heartbeat", said),
        (node, f"/v1/nodes/jobs/{ID}/outcome", outcome), (connector, "/v1/nodes/points", {"points": []}),
    ]  # fmt: skip
    before = [each.ask("POST", path, body).status for each, path, body in asked]
    assert before == [200, 409, 409, 204]
    for each in (node, connector):
        assert each.web.plane.keys[each.id]
        assert web.ask("DELETE", f"/v1/nodes/{each.id}").status == 204
    for each, path, body in asked:
        answer = each.ask("POST", path, body)
        assert (answer.status, answer.code) == (401, "node.unknown"), path


@pytest.mark.parametrize(("path", "body", "said"), [
    (f"/v1/nodes/jobs/{ID}/heartbeat", b"{", "body: not JSON"),
    (f"/v1/nodes/jobs/{ID}/heartbeat", b"{}", "body.incarnation: Field required"),
    ("/v1/nodes/jobs/x/heartbeat", b"{}", "path.job: "),
    ("/v1/nodes/poll", b"", "body: not JSON"),
])  # fmt: skip
def test_what_is_not_a_message_is_told_so_to_who_signed_it(
    web: Web, node: NodeKit, path: str, body: bytes, said: str
) -> None:
    answer = node.ask("POST", path, body)
    assert (answer.status, answer.code) == (422, "request.invalid")
    assert said in answer.json["message"]
    assert web.send("POST", path, body).status == 401  # who signed nothing is not told


def test_a_message_is_json(web: Web, node: NodeKit) -> None:
    body = b"{}"
    headers = {"Authorization": node.signature("POST", "/v1/nodes/poll", body), "Content-Type": "text/plain"}
    assert web.send("POST", "/v1/nodes/poll", body, headers=headers).status == 422
