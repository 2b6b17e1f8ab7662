"""A control plane's application without a network: requests go straight in, as operators and as nodes."""

import asyncio
import base64
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import FastAPI

from dmcore.api.base import Message
from dmcore.api.join import JoinToken
from dmcore.api.operators import JoinSpec, OperatorRole, TokenSpec
from dmcore.api.signing import sign_request
from dmcore.control.access import operators
from dmcore.control.certificates import ServerCertificate
from dmcore.control.plane import Plane
from dmcore.control.queue.tickets import TicketDesk
from dmcore.control.settings import ControlPlaneSettings
from dmcore.control.store.database import Database
from dmcore.control.web.app import create_app
from dmcore.model.enums import Role
from dmcore.model.ids import NodeId
from dmcore.model.names import node_id_of
from tests.control.queue_kit import DESK

CONTROL = UUID("00000000-0000-4000-8000-00000000c0de")
FINGERPRINT = "f" * 64
PLAN = {"name": "shop", "source": "vms", "target": "shadows", "machines": ["web1", "web2"], "rpo_s": 300}
CERTIFICATE = ServerCertificate(Path("tls.pem"), Path("tls.key"), FINGERPRINT, pinned=True)


@dataclass
class HandClock:
    """Shows what the test says."""

    now: datetime = field(default_factory=lambda: datetime.now(UTC).replace(microsecond=0))

    def __call__(self) -> datetime:
        return self.now

    def forward(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


def make_plane(database: Database, clock: HandClock, desk: TicketDesk = DESK) -> Plane:
    """By the test's clock, the database's clock included."""
    database._clock = lambda _: clock()
    return Plane(ControlPlaneSettings(state_dir=Path("unused")), database, desk, CERTIFICATE, CONTROL, clock, port=8443)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        return str(self.json["code"])


class Web:
    """The application, and what asks it."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane
        self.app: FastAPI = create_app(plane)
        self.tokens = {role: self._token(role) for role in OperatorRole}

    def _token(self, role: OperatorRole) -> str:
        with self.plane.database.write() as connection:
            now = self.plane.database.now(connection)
            spec = TokenSpec(name=f"the {role}", role=role)
            return operators.create(connection, now, spec, operators.LOCAL).secret

    def ask(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        role: OperatorRole | None = OperatorRole.ADMIN,
        **more: Any,
    ) -> Answer:
        """As an operator of this role; None: as nobody."""
        known = {"Authorization": f"Bearer {self.tokens[role]}"} if role else {}
        headers = known | more.pop("headers", {})
        return self.send(method, path, body, headers=headers, **more)

    def send(self, method: str, path: str, body: object = None, **more: Any) -> Answer:
        return asyncio.run(self.exchange(method, path, body, **more))

    async def exchange(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
        gone: asyncio.Event | None = None,
    ) -> Answer:
        """One request as a server would pass it on. `gone`: when the client hangs up."""
        data = encoded(body)
        given = {"Content-Type": "application/json"} | (headers or {})
        plain, _, query = path.partition("?")
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "https",
            "path": plain, "raw_path": plain.encode(), "query_string": query.encode(), "root_path": "",
            "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in given.items()],
            "server": ("control", 8443), "client": ("node", 1), "state": {},
        }  # fmt: skip
        said: list[dict[str, Any]] = []
        half = len(data) // 2
        parts = iter([(data[:half], True), (data[half:], False)])

        async def receive() -> dict[str, Any]:
            for part, more in parts:
                return {"type": "http.request", "body": part, "more_body": more}
            await (gone or asyncio.Event()).wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            said.append(message)

        await self.app(scope, receive, send)
        return _answer(said)


def encoded(body: object) -> bytes:
    if isinstance(body, Message):
        return body.model_dump_json().encode()
    return body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()


def _answer(said: list[dict[str, Any]]) -> Answer:
    headers = {name.decode(): value.decode() for name, value in said[0]["headers"]}
    return Answer(said[0]["status"], headers, b"".join(part.get("body", b"") for part in said[1:]))


@dataclass
class NodeKit:
    """A node as the web sees it."""

    web: Web
    role: Role
    site: str = "paris"
    key: EllipticCurvePrivateKey = field(default_factory=lambda: generate_private_key(SECP256R1()))
    incarnation: UUID = field(default_factory=uuid4)
    clock: Callable[[], datetime] | None = None

    @property
    def public_key(self) -> bytes:
        return self.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)

    @property
    def id(self) -> NodeId:
        return node_id_of(self.public_key)

    def signature(self, method: str, path: str, body: bytes, *, audience: UUID = CONTROL) -> str:
        now = (self.clock or self.web.plane.clock)()
        return sign_request(self.key, self.id, audience, method, path, body, now)

    def ask(self, method: str, path: str, body: object = None, *, audience: UUID = CONTROL) -> Answer:
        data = encoded(body)
        headers = {"Authorization": self.signature(method, path, data, audience=audience)}
        return self.web.send(method, path, data, headers=headers)

    def join_token(self) -> JoinToken:
        made = self.web.ask("POST", "/v1/joins", JoinSpec(site=self.site, role=self.role))
        assert made.status == 201, made.body
        return JoinToken.decode(made.json["token"])

    def enroll_request(self, token: JoinToken, **changes: Any) -> dict[str, Any]:
        known = {
            "secret": token.secret, "public_key": base64.b64encode(self.public_key).decode(), "site": self.site,
            "role": self.role, "version": "1.0",
        }  # fmt: skip
        return known | changes

    def enroll(self, token: JoinToken | None = None, **changes: Any) -> Answer:
        body = self.enroll_request(token or self.join_token(), **changes)
        return self.ask("POST", "/v1/nodes/enroll", body)

    def poll_body(self, **more: Any) -> dict[str, Any]:
        return {"incarnation": str(self.incarnation), "version": "1.0"} | more

    def poll(self, **more: Any) -> Answer:
        return self.ask("POST", "/v1/nodes/poll", self.poll_body(**more))


def enrolled(web: Web, role: Role, site: str = "paris", **told: Any) -> NodeKit:
    """A node of a site, which is made if it is not there, that has told of its aliases."""
    web.ask("POST", "/v1/sites", {"name": site})
    node = NodeKit(web, role, site)
    assert node.enroll().status == 200
    assert node.poll(slots=0, **told).status == 200
    return node
