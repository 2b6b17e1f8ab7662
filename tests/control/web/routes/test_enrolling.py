"""Enrolment over HTTP: what a join token is good for, and what it is not."""

import threading
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import select

from dmcore.api.join import JoinToken
from dmcore.api.nodes import EnrollReply
from dmcore.control.plane import Plane
from dmcore.control.store.database import Database
from dmcore.control.store.tables import joins
from dmcore.model.enums import Role
from tests.control.web_kit import CONTROL, FINGERPRINT, Answer, HandClock, NodeKit, Web


def fresh(web: Web, role: Role = Role.APPLIANCE) -> NodeKit:
    web.ask("POST", "/v1/sites", {"name": "paris"})
    return NodeKit(web, role)


def test_a_join_token_tells_how_to_know_the_control_plane(web: Web, plane: Plane) -> None:
    token = fresh(web).join_token()
    assert token.urls == ("https://127.0.0.1:8443",)
    assert (token.control, token.tls, token.ticket_key) == (CONTROL, FINGERPRINT, plane.tickets.fingerprint)


def test_a_join_token_needs_a_site_that_is_there(web: Web) -> None:
    answer = web.ask("POST", "/v1/joins", {"site": "rome", "role": "appliance"})
    assert (answer.status, answer.code) == (404, "object.unknown")


def test_an_enrolled_node_gets_the_ticket_key(web: Web, plane: Plane) -> None:
    node = fresh(web)
    reply = EnrollReply.model_validate(node.enroll().json)
    assert (reply.control, reply.node, reply.ticket_key) == (CONTROL, node.id, plane.tickets.public_pem)
    (view,) = web.ask("GET", "/v1/nodes").json["nodes"]
    assert (view["node"], view["site"], view["live"], view["revoked"]) == (node.id, "paris", False, False)


def test_only_the_secrets_hash_is_kept(web: Web, sqlite_database: Database) -> None:
    token = fresh(web).join_token()
    with sqlite_database.read() as connection:
        assert token.secret not in str(connection.execute(select(joins)).all())


def test_a_join_token_is_good_for_one_node(web: Web) -> None:
    first, second = fresh(web), fresh(web)
    token = first.join_token()
    assert first.enroll(token).status == 200
    assert first.enroll(token).status == 200  # its answer was lost: it asks again
    refused = second.enroll(token)
    assert (refused.status, refused.code) == (403, "join.refused")


def test_of_two_racers_one_is_enrolled(web: Web) -> None:
    racers = [fresh(web), fresh(web), fresh(web)]
    token = racers[0].join_token()
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda one=one: answers.append(one.enroll(token))) for one in racers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answer.status for answer in answers) == [200, 403, 403]
    assert len(web.ask("GET", "/v1/nodes").json["nodes"]) == 1


def test_a_join_token_ends_after_an_hour(web: Web, clock: HandClock) -> None:
    node = fresh(web)
    token = node.join_token()
    clock.forward(3600)
    assert node.enroll(token).code == "join.refused"


@pytest.mark.parametrize(
    "changes", [{"role": "connector"}, {"site": "rome"}, {"secret": "x" * 43}], ids=["role", "site", "secret"]
)
def test_a_join_token_is_for_one_site_and_role(web: Web, changes: dict[str, Any]) -> None:
    web.ask("POST", "/v1/sites", {"name": "rome"})
    node = fresh(web)
    assert node.enroll(**changes).code == "join.refused"
    assert web.ask("GET", "/v1/nodes").json["nodes"] == []


def test_an_enrolment_proves_the_key_that_it_brings(web: Web) -> None:
    node, other = fresh(web), fresh(web)
    token = node.join_token()
    stolen = other.enroll_request(token, public_key=node.enroll_request(token)["public_key"])
    assert other.ask("POST", "/v1/nodes/enroll", stolen).code == "auth.signature"
    elsewhere = node.ask("POST", "/v1/nodes/enroll", node.enroll_request(token), audience=uuid4())
    assert elsewhere.code == "auth.signature"


@pytest.mark.parametrize(
    ("key", "code"),
    [
        ("=" * 64, "join.refused"),
        ("AAAA" * 32, "auth.signature"),
        # an Ed25519 key, rightly encoded, padded to the length that a P-256 key has at least
        ("MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE" + "A" * 88, "auth.signature"),
    ],
)
def test_a_key_that_is_none_is_refused(web: Web, key: str, code: str) -> None:
    node = fresh(web)
    assert node.enroll(public_key=key).code == code


def test_a_revoked_node_comes_back_with_a_new_token_only(web: Web) -> None:
    node = fresh(web)
    token = node.join_token()
    node.enroll(token)
    assert web.ask("DELETE", f"/v1/nodes/{node.id}").status == 204
    assert web.ask("DELETE", f"/v1/nodes/{node.id}").status == 204
    assert node.poll().code == "node.unknown"
    assert node.enroll(token).code == "join.refused"
    assert node.enroll().status == 200
    assert node.poll(slots=0).status == 200
    assert web.ask("DELETE", f"/v1/nodes/{'b' * 64}").code == "object.unknown"


def test_a_key_keeps_its_role(web: Web) -> None:
    node = fresh(web)
    node.enroll()
    node.role = Role.CONNECTOR
    assert node.enroll().code == "state.conflict"


def test_a_clock_that_is_ten_minutes_off_cannot_enroll_unseen(web: Web, clock: HandClock) -> None:
    node = fresh(web)
    token = node.join_token()
    node.clock = HandClock(clock.now + timedelta(minutes=10))
    answer = node.enroll(token)
    assert (answer.status, answer.code) == (401, "clock.skewed")
    node.clock = None
    assert node.enroll(token).status == 200  # the token is not spent


def test_a_join_token_of_another_kind_is_refused(web: Web) -> None:
    node = fresh(web)
    token = node.join_token()
    assert JoinToken.decode(token.encode()) == token
    assert node.enroll(token, version="x" * 33).code == "request.invalid"
