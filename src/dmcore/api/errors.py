"""What can be wrong with a ticket, a signature or a join token by itself. Whether it is the right one, others say."""

from dataclasses import dataclass

from dmcore.errors import TrustError


@dataclass(eq=False)
class TicketForged(TrustError):
    """Not signed by the pinned key, or not by the pinned algorithm."""

    code = "ticket.forged"
    template = "the ticket is not signed by the control plane key that this connector pins; check control.ticket_key"


@dataclass(eq=False)
class TicketMalformed(TrustError):
    """Rightly signed or not, it is no ticket of this version."""

    code = "ticket.malformed"
    template = "the ticket cannot be read: {problem}"
    problem: str


@dataclass(eq=False)
class TicketExpired(TrustError):
    """Presented for the first time after its lease was over."""

    code = "ticket.expired"
    template = "the ticket of epoch {epoch} of group {group} expired at {expired}; claim the job again"
    epoch: int
    group: str
    expired: str


@dataclass(eq=False)
class RequestForged(TrustError):
    """A request's signature that is not its sender's, or is another request's."""

    code = "request.forged"
    template = "the request's signature is not valid: {problem}"
    problem: str


@dataclass(eq=False)
class JoinTokenMalformed(TrustError):
    """The text is no join token, or was cut short."""

    code = "join.malformed"
    template = "this is not a whole join token: it begins with dmj1. and goes on in one line; copy it again"
