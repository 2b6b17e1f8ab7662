"""A control plane in the wrong hands: it has the real TLS identity and ticket key, so its word is validly signed.

It hears real nodes over real HTTPS, writes down every byte, and answers what a test tells it to: a message, or bytes.
"""

import base64
import json
import threading
from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from dmcore.api.base import Message
from dmcore.api.jobs import ConnectorJob, Job, Outcome
from dmcore.api.join import JoinToken
from dmcore.api.limits import NO_LIMIT
from dmcore.api.nodes import AssignedPlans, EnrollReply, HeartbeatReply, PollReply
from dmcore.control.certificates import open_certificate
from dmcore.control.queue.tickets import TicketDesk
from dmcore.control.settings import ControlPlaneSettings
from dmcore.host.clock import utc_now
from dmcore.model.enums import Role

TIMEOUT_S = 30.0
POLL_S = 0.2
HEARTBEAT_S = 0.25
SECRET = "s" * 43


@dataclass(frozen=True)
class Reply:
    """What goes back, whatever it is."""

    body: bytes
    status: int = 200
    date: datetime | None = None
    headers: tuple[tuple[str, str], ...] = ()


def said(message: Message) -> Reply:
    """A message of the API; tickets are hidden from dumps, so they are put in by hand."""
    fields = message.model_dump(mode="json")
    job = getattr(message, "job", None)
    if isinstance(job, Job):
        fields["job"]["ticket"] = job.ticket
    return Reply(json.dumps(fields).encode())


def refusal(status: int, code: str, message: str = "no", **changes: Any) -> Reply:
    body = {"code": code, "message": message, "correlation": uuid4().hex}
    return Reply(json.dumps(body).encode(), status, **changes)


def poll_reply(job: Job | ConnectorJob | None = None, **changes: Any) -> PollReply:
    named: dict[str, Any] = {"job": job} if isinstance(job, Job) else {"work": job}
    return PollReply(**{**named, "plans_version": 1, "heartbeat_s": HEARTBEAT_S, **changes})


def poll_fields(job: Job | ConnectorJob, /, **changes: Any) -> Reply:
    """The answer to a poll with fields of its job replaced by what no model would take."""
    fields = json.loads(said(poll_reply(job)).body)
    fields["job" if isinstance(job, Job) else "work"].update(changes)
    return Reply(json.dumps(fields).encode())


GO_ON = said(HeartbeatReply(limit=NO_LIMIT, site_limit=NO_LIMIT, heartbeat_s=HEARTBEAT_S))
NO_PLANS = AssignedPlans(version=1, site_limit=NO_LIMIT, groups=())


@dataclass
class HostileControl:
    """Everything under one condition, which tests wait on."""

    state_dir: Path
    control: UUID = field(default_factory=uuid4)
    heard: list[bytes] = field(default_factory=list)
    polls: Counter[str] = field(default_factory=Counter)
    outcomes: dict[UUID, list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    stated: list[dict[str, Any]] = field(default_factory=list)
    beats: Counter[UUID] = field(default_factory=Counter)
    directives: Callable[[UUID], Reply] = lambda _: GO_ON
    everything: Reply | None = None
    """What every request is answered with, if it is set."""
    plans: Reply = field(default_factory=lambda: said(NO_PLANS))
    changed: threading.Condition = field(default_factory=threading.Condition)
    _queues: dict[str, deque[Reply]] = field(default_factory=lambda: defaultdict(deque))

    def __post_init__(self) -> None:
        self.tickets = TicketDesk.load(self.state_dir)
        self.certificate = open_certificate(ControlPlaneSettings(state_dir=self.state_dir), utc_now)
        self._server = _Server(self)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="hostile")
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self._server.server_port}"

    def join_token(self, site: str, role: Role) -> str:
        return JoinToken(
            urls=(self.url,), control=self.control, secret=SECRET, site=site, role=role,
            tls=self.certificate.fingerprint, ticket_key=self.tickets.fingerprint,
        ).encode()  # fmt: skip

    # what a test does

    def answer(self, node: str, *replies: Reply) -> None:
        """The node's next polls are answered so."""
        with self.changed:
            self._queues[node] += replies
            self.changed.notify_all()

    def give(self, node: str, *jobs: Job | ConnectorJob) -> None:
        self.answer(node, *(said(poll_reply(job)) for job in jobs))

    def wait(self, condition: Callable[[], object], what: str) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, TIMEOUT_S), f"{what} never came"

    def settled(self, node: str) -> None:
        """The node has had every answer that was meant for it, and has asked again since."""
        self.wait(lambda: not self._queues[node], "the end of the answers")
        with self.changed:
            asked = self.polls[node]
        self.wait(lambda: self.polls[node] >= asked + 2, "the next poll")

    def outcome(self, job: Job | ConnectorJob) -> Outcome:
        """Waits for one of this attempt."""
        self.wait(lambda: self._outcomes(job), f"an outcome of {job!r}")
        return self._outcomes(job)[-1]

    def wait_beats(self, job: UUID, more: int = 2) -> None:
        with self.changed:
            wanted = self.beats[job] + more
        self.wait(lambda: self.beats[job] >= wanted, "a heartbeat")

    def wait_polls(self, more: int) -> None:
        """So many more, of any nodes."""
        with self.changed:
            wanted = self.polls.total() + more
        self.wait(lambda: self.polls.total() >= wanted, "polls")

    def _outcomes(self, job: Job | ConnectorJob) -> list[Outcome]:
        return [outcome for outcome in self.outcomes[job.job] if outcome.epoch == job.epoch]

    # what a node says

    def hear(self, method: str, path: str, headers: list[tuple[str, str]], body: bytes) -> Reply:
        claims = _claims(dict(headers).get("Authorization", ""))
        with self.changed:
            self.heard += [f"{method} {path}".encode(), json.dumps(headers).encode(), json.dumps(claims).encode(), body]
            self.changed.notify_all()
            if path != "/v1/nodes/enroll" and self.everything is not None:
                self.polls[claims["iss"]] += path.endswith("/poll")
                return self.everything
            return self._answer(path, claims["iss"], json.loads(body or b"{}"))

    def _answer(self, path: str, node: str, fields: dict[str, Any]) -> Reply:
        if path == "/v1/nodes/enroll":
            return said(EnrollReply(control=self.control, node=node, ticket_key=self.tickets.public_pem))
        if path == "/v1/nodes/poll":
            return self._poll(node, fields)
        if path == "/v1/nodes/plans":
            return self.plans
        if path == "/v1/nodes/points":
            self.stated += fields["points"]
        if path.endswith("/heartbeat"):
            job = UUID(path.split("/")[4])
            self.beats[job] += 1
            return self.directives(job)
        if path.endswith("/outcome"):
            self.outcomes[UUID(path.split("/")[4])].append(Outcome.model_validate(fields["outcome"]))
        return Reply(b"", 204)

    def _poll(self, node: str, fields: dict[str, Any]) -> Reply:
        self.polls[node] += 1
        queue = self._queues[node]
        if fields["slots"] and not queue:
            self.changed.wait_for(lambda: queue or self.everything, min(fields["wait_s"], POLL_S))
        return queue.popleft() if queue and fields["slots"] else said(poll_reply())


def _claims(authorization: str) -> dict[str, Any]:
    parts = authorization.removeprefix("Node ").split(".")
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    return claims


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = TIMEOUT_S
    server: "_Server"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        reply = self.server.control.hear(self.command, self.path, self.headers.items(), body)
        self.send_response_only(reply.status)
        self.send_header("Date", format_datetime(reply.date or utc_now(), usegmt=True))
        for name, value in reply.headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(reply.body)))
        self.end_headers()
        self.wfile.write(reply.body)

    def do_GET(self) -> None:
        self.do_POST()

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


class _Server(ThreadingHTTPServer):
    daemon_threads = False

    def __init__(self, control: HostileControl) -> None:
        self.control = control
        self._context = control.certificate.context()
        super().__init__(("127.0.0.1", 0), _Handler)

    def finish_request(self, request: Any, client_address: Any) -> None:
        """In the connection's own thread."""
        request.settimeout(TIMEOUT_S)
        with self._context.wrap_socket(request, server_side=True) as tls:
            super().finish_request(tls, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A node that went away."""
