"""The control plane's ticket key: what it signs, a connector believes for as long as the ticket says."""

import hashlib
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Self
from uuid import UUID

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from dmcore.api.tickets import Ticket, sign_ticket
from dmcore.host.errors import FileBroken
from dmcore.host.files import create_file, make_dir, read_private
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId

TICKET_KEY_FILE = "ticket.key"
TICKET_LIFE_S = 1800
"""Longer than a lease, so that a connector whose clock is ten minutes off still takes them."""


@dataclass(frozen=True)
class TicketDesk:
    """Mints tickets. Replicas of one control plane share the key file: a connector pins one key."""

    private_key: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def load(cls, state_dir: Path) -> Self:
        """With the key of this state directory, made at the first call.

        Raises:
            FileExposed: others than the owner have rights on it.
            FileBroken: the file holds no Ed25519 key.
        """
        path = make_dir(state_dir) / TICKET_KEY_FILE
        if not path.exists():
            with suppress(FileExistsError):  # another process was first: its key is the one
                create_file(path, _new_key())
        try:
            key = load_pem_private_key(read_private(path), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
            raise FileBroken(path=str(path), problem=f"not a private key in PEM: {problem}") from problem
        if not isinstance(key, Ed25519PrivateKey):
            raise FileBroken(path=str(path), problem="not an Ed25519 key")
        return cls(key)

    @property
    def public_pem(self) -> str:
        """The public half, as an enrolled node gets it."""
        return self.private_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public half (SubjectPublicKeyInfo, DER), lower-case hex."""
        der = self.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return hashlib.sha256(der).hexdigest()

    def mint(
        self, now: datetime, *, plan: UUID, group: UUID, cycle: UUID, epoch: int, node: str, connector: str
    ) -> str:
        """A ticket for one lease."""
        issued = int(now.timestamp())
        claims = Ticket(
            plan=PlanId(plan), group=GroupId(group), cycle=CycleId(cycle), epoch=epoch, node=NodeId(node),
            connector=NodeId(connector), iat=issued, exp=issued + TICKET_LIFE_S,
        )  # fmt: skip
        return sign_ticket(self.private_key, claims)


def _new_key() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
