"""Whether a ticket lets this node begin this cycle here. The control plane signs, the connector judges."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from dmcore.api.tickets import Ticket, verify_ticket
from dmcore.connector.trust_errors import EpochLeap, EpochStale, SuccessorRefused, TicketForOther
from dmcore.host.errors import FileBroken
from dmcore.host.files import read_state
from dmcore.model.ids import CycleId, GroupId, NodeId, PlanId, successor_cycle

MAX_LEAP = 1 << 24
"""How many leases of a group may have come to nothing in a row: one a second, for half a year.

Epochs only grow, so a ticket with the highest of all would be a group's last, whoever has the key after that.
"""


@dataclass(frozen=True)
class Presented:
    """The highest epoch that was ever presented for a group, and by which node (None: not kept)."""

    epoch: int = 0
    node: NodeId | None = None


@dataclass(frozen=True)
class TicketGate:
    """One connector's. `key` is the pinned public key of whoever may sign tickets."""

    key: Ed25519PublicKey
    connector: NodeId

    def check(
        self,
        text: str,
        *,
        node: NodeId,
        plan: PlanId,
        group: GroupId,
        cycle: CycleId,
        highest: Presented,
        now: datetime,
        successor: int = 0,
    ) -> Ticket:
        """The ticket, if the node of the peer's certificate may begin this cycle under it.

        Its expiry counts when its epoch is presented for the first time. From then on that node goes on under
        it until a higher epoch is presented, so that a lost control plane stops no cycle. It may then also begin
        successors of the ticket's cycle, whose ids nobody chooses: they follow from the ticket's.

        Raises:
            TicketForged, TicketMalformed, TicketExpired: see `verify_ticket`.
            TicketForOther: of another connector, node, plan, group or cycle, or its epoch is another node's.
            EpochStale: a higher epoch is known, and named. EpochLeap: this one is too far above it.
            SuccessorRefused: a successor under an epoch that this node has not presented before.
        """
        ticket = verify_ticket(self.key, text)
        self._require_ours(ticket, node, plan, group, cycle, successor)
        if ticket.epoch < highest.epoch:
            raise EpochStale(group=str(group), epoch=ticket.epoch, current=highest.epoch)
        if successor and (ticket.epoch, node) != (highest.epoch, highest.node):
            raise SuccessorRefused(group=str(group), successor=successor, epoch=ticket.epoch)
        if ticket.epoch > highest.epoch:
            ticket.require_fresh(now)
            if ticket.epoch - highest.epoch > MAX_LEAP:
                raise EpochLeap(group=str(group), epoch=ticket.epoch, current=highest.epoch)
        elif highest.node not in {None, node}:
            raise TicketForOther(what=f"epoch {ticket.epoch} of node", claimed=str(highest.node), used=node)
        return ticket

    def _require_ours(
        self, ticket: Ticket, node: NodeId, plan: PlanId, group: GroupId, cycle: CycleId, successor: int
    ) -> None:
        pairs = [
            ("connector", ticket.connector, self.connector),
            ("node", ticket.node, node),
            ("plan", ticket.plan, plan),
            ("group", ticket.group, group),
            ("cycle", successor_cycle(ticket.cycle, successor), cycle),
        ]
        for what, claimed, used in pairs:
            if claimed != used:
                raise TicketForOther(what=what, claimed=str(claimed), used=str(used))


def load_ticket_key(path: Path) -> Ed25519PublicKey:
    """The pinned key, from the PEM file that the configuration names.

    Raises:
        FileBroken: not there, or not an Ed25519 public key.
    """
    try:
        key = load_pem_public_key(read_state(path))
    except (FileNotFoundError, ValueError, UnsupportedAlgorithm) as problem:
        raise FileBroken(path=str(path), problem=f"not a public key in PEM ({problem})") from problem
    if not isinstance(key, Ed25519PublicKey):
        raise FileBroken(path=str(path), problem="not an Ed25519 key")
    return key
