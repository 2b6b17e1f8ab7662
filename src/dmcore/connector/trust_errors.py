"""Whom and what the connector does not accept, and why."""

from dataclasses import dataclass

from dmcore.errors import RefusedError, TrustError


@dataclass(eq=False)
class CsrRefused(TrustError):
    """A certificate request that does not prove a key we issue for."""

    code = "pairing.csr"
    template = "certificate request refused: {problem}"
    problem: str


@dataclass(eq=False)
class VersionRefused(TrustError):
    """No pairing protocol version in common."""

    code = "pairing.version"
    template = "the appliance speaks pairing versions {offered}, this connector {spoken}; upgrade the older"
    offered: str
    spoken: str


@dataclass(eq=False)
class Unpaired(TrustError):
    """A good certificate of a node that an operator has unpaired."""

    code = "tls.unpaired"
    template = "node {node} is not paired with this connector (any more)"
    node: str


@dataclass(eq=False)
class TicketForOther(TrustError):
    """A rightly signed ticket that is not for what it is used for."""

    code = "ticket.other"
    template = "the ticket is for {what} {claimed}, but is used for {used}"
    what: str
    claimed: str
    used: str


@dataclass(eq=False)
class EpochStale(RefusedError):
    """A newer lease of the group is known: this attempt is over."""

    code = "ticket.epoch"
    template = "epoch {epoch} of group {group} is over: epoch {current} was presented"
    group: str
    epoch: int
    current: int


@dataclass(eq=False)
class EpochLeap(TrustError):
    """An epoch so far ahead that it is no next lease: taken, it would leave none above it."""

    code = "ticket.leap"
    template = (
        "epoch {epoch} of group {group} is too far ahead of {current}, the newest that was presented: "
        "leases are counted one by one"
    )
    group: str
    epoch: int
    current: int


@dataclass(eq=False)
class SuccessorRefused(TrustError):
    """A cycle that an appliance began by itself, under an epoch that it has not presented before."""

    code = "ticket.successor"
    template = (
        "successor {successor} of group {group} under epoch {epoch}: only the node that has begun a cycle under an "
        "epoch goes on under it by itself"
    )
    group: str
    successor: int
    epoch: int


@dataclass(eq=False)
class BindingRefused(RefusedError):
    """What a plan asks for is not what it was bound to at its first cycle."""

    code = "plan.binding"
    template = (
        "plan {plan} is bound to {what} {bound}, but asks for {asked}; "
        "if that is right, an operator binds it anew at the connector"
    )
    plan: str
    what: str
    bound: str
    asked: str


@dataclass(eq=False)
class BindingUnfit(RefusedError):
    """What a plan asks to be bound to is not even a name, or more than a plan can have."""

    code = "plan.unfit"
    template = "plan {plan} cannot be bound: {problem}"
    plan: str
    problem: str


@dataclass(eq=False)
class PlanUnbound(RefusedError):
    """An operator names a plan that never began a cycle here."""

    code = "plan.unbound"
    template = "no plan {plan} has begun a cycle at this connector"
    plan: str
