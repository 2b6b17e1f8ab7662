"""A whole connector, from its settings: opened, recovered, served, stopped."""

from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import structlog

from dmcore.connector.bindings import Bindings
from dmcore.connector.ca import Authority, open_authority, server_certificate
from dmcore.connector.control_session import Desk
from dmcore.connector.groups import Groups
from dmcore.connector.keyring import PlanKeyring
from dmcore.connector.operations import Operations
from dmcore.connector.operator_socket import OperatorSocket
from dmcore.connector.paired import PairedList
from dmcore.connector.pairing import PairingDesk
from dmcore.connector.pairing_server import PairingServer
from dmcore.connector.pairing_tokens import TokenStore, make_token
from dmcore.connector.roller import Roller
from dmcore.connector.senders import Senders
from dmcore.connector.server import Server
from dmcore.connector.tickets import TicketGate, load_ticket_key
from dmcore.keys.local import LocalKek
from dmcore.node.address import Address
from dmcore.node.clock import Clock, utc_now
from dmcore.node.identity import Identity, StateLock, load_identity
from dmcore.node.settings import ConnectorSettings
from dmcore.shadow.points import Point
from dmcore.shadow.storage import Storage
from dmcore.wire.credit import CreditBudget
from dmcore.wire.tls import pairing_server_context, server_context

SOCKET_FILE = "connector.sock"

log = structlog.get_logger()


def publish_nowhere(point: Point) -> None:
    """There is no control plane: the catalogue here is the only index."""
    log.info("recovery point", point=str(point.id), group=str(point.group), cycle=str(point.cycle))


@dataclass(frozen=True)
class Trust:
    """Who this connector is, and whom it knows."""

    identity: Identity
    authority: Authority
    tokens: TokenStore
    paired: PairedList


class Connector:
    """Everything of one connector process. Opening is recovery: sealed cycles roll forward from where they were."""

    def __init__(self, settings: ConnectorSettings, storage: Storage | None = None, clock: Clock = utc_now) -> None:
        """Lock the state directory, open what is there, listen.

        Raises:
            DmcoreError: the settings, keys or state are not usable, or an address cannot be had.
        """
        self.settings, self._clock = settings, clock
        with ExitStack() as undo:
            self._lock = undo.enter_context(StateLock(settings.state_dir))
            self.trust = self._open_trust()
            self.keyring = PlanKeyring(
                settings.state_dir / "keys", LocalKek(settings.kek.file, settings.kek.fingerprint)
            )
            gate = TicketGate(load_ticket_key(settings.control.ticket_key), self.trust.identity.node)
            self.groups = Groups(settings, self.keyring, storage or Storage())
            undo.callback(self.groups.close)
            self.roller = Roller(publish_nowhere)
            undo.callback(self.roller.stop)
            bindings = Bindings(settings.state_dir)
            desk = Desk(self.groups, self.keyring, bindings, gate, self.roller, Senders(), clock)
            self._listen(desk, undo)
            self._undo = undo.pop_all()

    def start(self) -> None:
        """Serve, and roll forward what a stop or crash has left sealed."""
        for shadow in self.groups.all():
            self.roller.start(shadow)
        self.server.start()
        self.pairing.start()
        self.operator.start()
        log.info("connector serves", data=str(self.server.address), pairing=str(self.pairing.address))

    def stop(self) -> None:
        """Cut connections, finish the step under way, join every thread, release the locks. Idempotent."""
        self._undo.close()

    def pair_token(self, site: str) -> str:
        """A pairing token for an appliance at a site."""
        addresses = [self._advertised(self.pairing.address)]
        return make_token(self.trust.tokens, self.trust.authority, self.trust.identity.node, addresses, site)

    def _open_trust(self) -> Trust:
        state, site = self.settings.state_dir, self.settings.site
        identity = load_identity(state)
        return Trust(
            identity, open_authority(state, site, self._clock), TokenStore(state, self._clock), PairedList(state)
        )

    def _listen(self, desk: Desk, undo: ExitStack) -> None:
        settings, trust = self.settings, self.trust
        hosts = [settings.advertise]
        certificate = server_certificate(trust.authority, settings.state_dir, trust.identity, settings.site, hosts)
        context = server_context(certificate, trust.identity.key_path, trust.authority.certificate_path)
        limits = settings.limits
        self.server = Server(
            settings.listen, context, desk, trust.paired, CreditBudget(limits.receive_budget_bytes),
            max_connections=limits.max_connections, handshake_timeout_s=limits.handshake_timeout_s,
        )  # fmt: skip
        undo.callback(self.server.stop)
        pairing = PairingDesk(
            trust.authority,
            trust.identity.node,
            self._advertised(self.server.address),
            trust.tokens,
            trust.paired,
            self._clock,
        )
        pairing_context = pairing_server_context(certificate, trust.identity.key_path)
        self.pairing = PairingServer(settings.pairing_listen, pairing_context, pairing)
        undo.callback(self.pairing.stop)
        self.operator = OperatorSocket(
            settings.state_dir / SOCKET_FILE,
            Operations(self.groups, self.keyring, desk.bindings, trust.paired, self.pair_token, self.server.cut),
        )
        undo.callback(self.operator.stop)

    def _advertised(self, listening: Address) -> Address:
        return Address(self.settings.advertise, listening.port)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
