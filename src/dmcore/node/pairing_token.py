"""A pairing token as an operator carries it, and the two questions of the pairing endpoint."""

import base64
import binascii
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter

from dmcore.api.labels import NodeIdText, Site
from dmcore.host.address import AddressText
from dmcore.node.pairing_errors import TokenMalformed

PREFIX = "dmpair1."
PAIRING_VERSION = 1
MAX_TOKEN_CHARACTERS = 4096

Secret = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{22,128}$")]
"""base64url of at least 128 random bits."""
Pem = Annotated[str, StringConstraints(min_length=1, max_length=16 << 10)]


class Message(BaseModel):
    """Base of everything here."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PairingToken(Message):
    """Where the connector is, how to know it, and the secret that lets one appliance of one site in."""

    connector: NodeIdText
    authority_sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
    addresses: Annotated[tuple[AddressText, ...], Field(min_length=1, max_length=8)]
    site: Site
    secret: Secret = Field(repr=False)

    def encode(self) -> str:
        """One line of text to hand to the appliance's operator."""
        return PREFIX + base64.urlsafe_b64encode(self.model_dump_json().encode()).decode().rstrip("=")

    @classmethod
    def decode(cls, text: str) -> "PairingToken":
        """The token that this text is.

        Raises:
            TokenMalformed: it is none, or not the whole of one.
        """
        body = text.strip().removeprefix(PREFIX)
        if not text.strip().startswith(PREFIX) or len(body) > MAX_TOKEN_CHARACTERS:
            raise TokenMalformed
        try:
            data = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
            return cls.model_validate_json(data)
        except (binascii.Error, ValueError) as problem:
            raise TokenMalformed from problem


class AuthorityRequest(Message):
    """Asked on a connection that trusts nobody yet, so it carries nothing secret."""

    ask: Literal["authority"] = "authority"


class PairRequest(Message):
    """Asked once the connector is known to be the one that made the token."""

    ask: Literal["pair"] = "pair"
    versions: Annotated[tuple[int, ...], Field(min_length=1, max_length=16)] = (PAIRING_VERSION,)
    secret: Secret = Field(repr=False)
    csr: Pem


class AuthorityAnswer(Message):
    """The connector's CA certificate; to be held against the token's fingerprint."""

    authority: Pem


class PairAnswer(Message):
    """What an appliance keeps of a pairing, beside its own key."""

    certificate: Pem
    authority: Pem
    connector: NodeIdText
    address: AddressText


class Refusal(Message):
    """An error's code; nothing else leaves the connector."""

    refused: Annotated[str, StringConstraints(pattern=r"^[a-z0-9.-]{1,64}$")]


Request = Annotated[AuthorityRequest | PairRequest, Field(discriminator="ask")]
REQUEST: TypeAdapter[AuthorityRequest | PairRequest] = TypeAdapter(Request)


def parse_request(data: bytes) -> AuthorityRequest | PairRequest:
    """The question a peer asked; a ValueError if it is none."""
    return REQUEST.validate_json(data)
