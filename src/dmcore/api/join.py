"""A join token as an operator carries it: where the control plane is, how to know it, and the secret that lets in."""

import base64
import binascii
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field, StringConstraints

from dmcore.api.base import Message
from dmcore.api.errors import JoinTokenMalformed
from dmcore.api.labels import Site
from dmcore.api.server_trust import URL_PATTERN
from dmcore.model.enums import Role

PREFIX = "dmj1."
MAX_TOKEN_CHARACTERS = 8192

Url = Annotated[str, StringConstraints(pattern=URL_PATTERN)]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class JoinToken(Message):
    """What is inside. Single use; the control plane keeps only the SHA-256 of the secret."""

    v: Literal[1] = 1
    urls: Annotated[tuple[Url, ...], Field(min_length=1, max_length=8)]
    control: UUID
    secret: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{22,86}$")] = Field(repr=False)
    site: Site
    role: Role
    tls: Fingerprint | None
    """SHA-256 of the server's certificate (DER). None: a CA vouches for it, a public one or one that the node knows."""
    ticket_key: Fingerprint
    """SHA-256 of the public key for tickets (SubjectPublicKeyInfo, DER)."""

    def encode(self) -> str:
        """One line of text."""
        return PREFIX + base64.urlsafe_b64encode(self.model_dump_json().encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "JoinToken":
        """The token that this text is.

        Raises:
            JoinTokenMalformed: it is none, or not the whole of one.
        """
        stripped = text.strip()
        if not stripped.startswith(PREFIX) or len(stripped) > MAX_TOKEN_CHARACTERS:
            raise JoinTokenMalformed
        body = stripped.removeprefix(PREFIX)
        try:
            data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            return cls.model_validate_json(data)
        except (binascii.Error, ValueError):  # its text may have the secret in it: no cause is kept
            raise JoinTokenMalformed from None
