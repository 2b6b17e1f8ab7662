"""Why a pairing did not come about, each with what to do next. Both ends raise them; codes cross the wire."""

from dataclasses import dataclass

from dmcore.errors import ConnectionFailed, TrustError

_NEW_TOKEN = "make a new one at the connector with `dmctl connector pair-token`"  # noqa: S105 - advice


@dataclass(eq=False)
class TokenMalformed(TrustError):
    """The text is no pairing token, or was cut short."""

    code = "pairing.token-malformed"
    template = "this is not a whole pairing token: it begins with dmpair1. and goes on in one line; copy it again"


@dataclass(eq=False)
class TokenUnknown(TrustError):
    """The connector never made this token."""

    code = "pairing.token-unknown"
    template = f"the connector does not know this pairing token; {_NEW_TOKEN}"


@dataclass(eq=False)
class TokenUsed(TrustError):
    """Somebody has paired with this token before."""

    code = "pairing.token-used"
    template = f"this pairing token was used already; if not by you, look at who is paired; {_NEW_TOKEN}"


@dataclass(eq=False)
class TokenExpired(TrustError):
    """The token's hour is over."""

    code = "pairing.token-expired"
    template = f"this pairing token has expired; {_NEW_TOKEN}"


@dataclass(eq=False)
class TokenOtherSite(TrustError):
    """The token is for an appliance of another site."""

    code = "pairing.other-site"
    template = f"this pairing token is for site {{token_site!r}}, this appliance is at {{own_site!r}}; {_NEW_TOKEN}"
    token_site: str
    own_site: str


@dataclass(eq=False)
class AuthorityMismatch(TrustError):
    """What answers at the connector's address is not the connector that made the token."""

    code = "pairing.authority"
    template = (
        "{address} is not the connector that made this token: {problem}; "
        "check the address, and that nobody stands between"
    )
    address: str
    problem: str


@dataclass(eq=False)
class ConnectorUnreachable(ConnectionFailed):
    """Nobody answers at the connector's pairing address."""

    code = "pairing.unreachable"
    template = "no answer from the connector at {address}: {problem}; check that it runs and that the port is open"
    address: str
    problem: str


@dataclass(eq=False)
class PairingRefused(TrustError):
    """The connector refused the request itself."""

    code = "pairing.refused"
    template = "the connector refused to pair: {problem}"
    problem: str


@dataclass(eq=False)
class MessageMalformed(TrustError):
    """What arrived is no pairing message, is too long, or never ended."""

    code = "pairing.message"
    template = "pairing message refused: {problem}"
    problem: str


@dataclass(eq=False)
class NotPaired(TrustError):
    """This appliance holds no pairing with that connector."""

    code = "pairing.missing"
    template = "not paired with connector {connector}; run `dmctl appliance pair` with a token made there"
    connector: str
