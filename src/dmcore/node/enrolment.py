"""Enrolment at a control plane: from a join token to what is kept of it in `state_dir/control/`."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import BaseModel, ConfigDict

from dmcore.api.client_errors import AuthorityUnreadable
from dmcore.api.join import Fingerprint, JoinToken, Url
from dmcore.api.labels import NodeIdText, Site
from dmcore.api.nodes import EnrollReply
from dmcore.api.server_trust import ServerTrust, fetch_first_pinned
from dmcore.host.clock import Clock, utc_now
from dmcore.host.errors import FileBroken
from dmcore.host.files import fsync_dir, make_dir, read_state, replace_file
from dmcore.model.enums import Role
from dmcore.model.names import node_id_of
from dmcore.node.control_errors import EnrolledElsewhere, EnrolmentBroken, JoinElsewhere
from dmcore.node.enrolment_client import ask_to_enroll
from dmcore.node.identity import Identity

FOLDER = "control"
RECORD, TLS, CA, TICKET_KEY = "enrolment.json", "tls.pem", "ca.pem", "ticket.pub"


@dataclass(frozen=True)
class Enrolment:
    """Where a node is enrolled, and how it knows that control plane."""

    control: UUID
    urls: tuple[str, ...]
    site: str
    role: Role
    trust: ServerTrust
    ticket_key_path: Path
    """The control plane's public key for tickets, PEM."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    control: UUID
    urls: tuple[Url, ...]
    node: NodeIdText
    site: Site
    role: Role
    tls: Fingerprint | None
    """None: a CA vouches, that of `ca.pem` if it is there, else the system's."""
    own_ca: bool


def control_dir(state_dir: Path) -> Path:
    """Where a node keeps everything about its control plane."""
    return state_dir / FOLDER


def enroll(
    token_text: str,
    identity: Identity,
    site: str,
    role: Role,
    state_dir: Path,
    ca_file: Path | None = None,
    *,
    force: bool = False,
    clock: Clock = utc_now,
) -> Enrolment:
    """Enroll with the control plane that made this token, and keep that in the place of any older enrolment.

    With a CA's file its server is known by that, else by the fingerprint in the token, else by the system's CAs.

    Raises:
        JoinTokenMalformed, JoinElsewhere, EnrolledElsewhere: before anybody is asked.
        PinDiffers, ControlUntrusted: it is another server; the secret was not sent.
        ControlDenied: the token is used, expired or not from there.
        EnrolmentBroken: the answer is not what the token promised.
        ControlUnreachable, ControlAnswerBroken, ControlRefused: as of any client.
    """
    token = JoinToken.decode(token_text)
    if (token.site, token.role) != (site, role):
        wanted, own = (f"{what} at site {where}" for what, where in ((token.role, token.site), (role, site)))
        raise JoinElsewhere(wanted=wanted, own=own)
    leaving = _leaves_another(state_dir, token, force=force)
    kept = _Kept.of(token, ca_file)
    trust = ServerTrust(fingerprint=token.tls if kept.pinned else None, ca_file=ca_file)
    reply = ask_to_enroll(token, identity, trust, clock)
    _require_promised(token, identity, reply)
    if leaving:
        shutil.rmtree(control_dir(state_dir))  # plans, leases and outcomes of the other one
    return _store(state_dir, token, identity, reply, kept)


def load_enrolment(state_dir: Path) -> Enrolment | None:
    """This node's enrolment; None: it has none.

    Raises:
        FileBroken: there is one, but it cannot be read.
    """
    path = control_dir(state_dir) / RECORD
    try:
        record = _Record.model_validate_json(read_state(path))
    except FileNotFoundError:
        return None
    except ValueError as problem:
        raise FileBroken(path=str(path), problem="not an enrolment; enroll again with --force") from problem
    return _enrolment(state_dir, record)


@dataclass(frozen=True)
class _Kept:
    """How the server will be known: one of the two, or neither."""

    pinned: str | None
    ca: bytes | None

    @classmethod
    def of(cls, token: JoinToken, ca_file: Path | None) -> "_Kept":
        if ca_file:
            return cls(None, _ca_of(ca_file))
        return cls(fetch_first_pinned(token.urls, token.tls) if token.tls else None, None)


def _leaves_another(state_dir: Path, token: JoinToken, *, force: bool) -> bool:
    try:
        before = load_enrolment(state_dir)
    except FileBroken:
        if not force:
            raise
        return True
    if before is None:  # what is there was left by a change that broke off: whose it is nobody knows
        return control_dir(state_dir).exists()
    if before.control == token.control:
        return False
    if not force:
        raise EnrolledElsewhere(control=str(before.control), url=before.urls[0])
    return True


def _ca_of(path: Path) -> bytes:
    try:
        return read_state(path)
    except FileNotFoundError as missing:
        raise AuthorityUnreadable(path=str(path), problem="it is not there") from missing


def _require_promised(token: JoinToken, identity: Identity, reply: EnrollReply) -> None:
    url = token.urls[0]
    if reply.control != token.control:
        raise EnrolmentBroken(url=url, problem=f"it calls itself {reply.control}, the token says {token.control}")
    if reply.node != identity.node:
        raise EnrolmentBroken(url=url, problem="it has enrolled another node's key")
    try:
        key = load_pem_public_key(reply.ticket_key.encode())
    except (ValueError, UnsupportedAlgorithm) as problem:
        raise EnrolmentBroken(url=url, problem="its ticket key is no public key in PEM") from problem
    der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if not isinstance(key, Ed25519PublicKey) or node_id_of(der) != token.ticket_key:
        raise EnrolmentBroken(url=url, problem="its ticket key has another fingerprint")


def _store(state_dir: Path, token: JoinToken, identity: Identity, reply: EnrollReply, kept: _Kept) -> Enrolment:
    folder = make_dir(control_dir(state_dir))
    (folder / RECORD).unlink(missing_ok=True)  # old and new files are never taken for one enrolment
    fsync_dir(folder)
    replace_file(folder / TICKET_KEY, reply.ticket_key.encode())
    if kept.pinned:
        replace_file(folder / TLS, kept.pinned.encode())
    if kept.ca:
        replace_file(folder / CA, kept.ca)
    record = _Record(
        control=token.control, urls=token.urls, node=identity.node, site=token.site, role=token.role,
        tls=token.tls if kept.pinned else None, own_ca=bool(kept.ca),
    )  # fmt: skip
    replace_file(folder / RECORD, record.model_dump_json(indent=1).encode())  # last: without it there is none
    return _enrolment(state_dir, record)


def _enrolment(state_dir: Path, record: _Record) -> Enrolment:
    folder = control_dir(state_dir)
    trust = ServerTrust(
        fingerprint=record.tls,
        certificate_path=folder / TLS if record.tls else None,
        ca_file=folder / CA if record.own_ca else None,
    )
    return Enrolment(record.control, record.urls, record.site, record.role, trust, folder / TICKET_KEY)
