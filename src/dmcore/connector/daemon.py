"""A whole connector, from its settings: opened, recovered, served, stopped."""

from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog

from dmcore.api.points import PointFact
from dmcore.connector.bindings import Bindings
from dmcore.connector.ca import Authority, open_authority, server_certificate
from dmcore.connector.clock_guard import ClockGuard
from dmcore.connector.control_session import Desk
from dmcore.connector.errors import TicketKeyMissing
from dmcore.connector.groups import Groups
from dmcore.connector.keeper import PointKeeper
from dmcore.connector.keyring import PlanKeyring
from dmcore.connector.leftovers import Leftovers
from dmcore.connector.metrics import ConnectorMetrics, Gauges
from dmcore.connector.operations import Operations
from dmcore.connector.operator_socket import OperatorSocket
from dmcore.connector.outbox import Outbox
from dmcore.connector.paired import PairedList
from dmcore.connector.pairing import PairingDesk
from dmcore.connector.pairing_server import PairingServer
from dmcore.connector.pairing_tokens import TokenStore, make_token
from dmcore.connector.roller import Roller
from dmcore.connector.senders import Senders
from dmcore.connector.server import Server
from dmcore.connector.service import ConnectorService, Ended
from dmcore.connector.tickets import TicketGate, load_ticket_key
from dmcore.host.address import Address
from dmcore.host.clock import Clock, utc_now
from dmcore.host.lock import StateLock
from dmcore.host.metrics import MetricsServer
from dmcore.keys.local import LocalKek
from dmcore.node.control_client import NodeClient
from dmcore.node.enrolment import Enrolment, load_enrolment
from dmcore.node.identity import Identity, load_identity
from dmcore.node.settings import ConnectorSettings
from dmcore.shadow.storage import Storage
from dmcore.wire.credit import CreditBudget
from dmcore.wire.tls import pairing_server_context, server_context

SOCKET_FILE = "connector.sock"

log = structlog.get_logger()


def ticket_key(settings: ConnectorSettings, enrolment: Enrolment | None) -> Path:
    """Where the key is that tickets must be signed with: the configured one, else that of the enrolment.

    Raises:
        TicketKeyMissing: there is neither.
    """
    if settings.control.ticket_key is not None:
        return settings.control.ticket_key
    if enrolment is None:
        raise TicketKeyMissing
    return enrolment.ticket_key_path


def _tell_nobody(fact: PointFact) -> None:
    """There is no control plane: the catalogue here is the only index. An enrolment later states it whole."""


def _nobody_waits(error: Exception) -> None:
    """Whoever made this connector does not wait for its end."""


@dataclass(frozen=True)
class Trust:
    """Who this connector is, and whom it knows."""

    identity: Identity
    authority: Authority
    tokens: TokenStore
    paired: PairedList


class Connector:
    """Everything of one connector process. Opening is recovery: sealed cycles roll forward from where they were."""

    def __init__(
        self,
        settings: ConnectorSettings,
        storage: Storage | None = None,
        clock: Clock = utc_now,
        ended: Ended = _nobody_waits,
    ) -> None:
        """Lock the state directory, open what is there, listen. `ended` is told why this process must stop.

        Raises:
            DmcoreError: the settings, keys or state are not usable, or an address cannot be had.
        """
        self.settings, self._clock, self._ended = settings, clock, ended
        self._storage = storage or Storage()
        self.metrics = ConnectorMetrics()
        with ExitStack() as undo:
            self._lock = undo.enter_context(StateLock(settings.state_dir))
            self.trust = self._open_trust()
            self.keyring = PlanKeyring(
                settings.state_dir / "keys", LocalKek(settings.kek.file, settings.kek.fingerprint)
            )
            enrolment = load_enrolment(settings.state_dir)
            gate = TicketGate(load_ticket_key(ticket_key(settings, enrolment)), self.trust.identity.node)
            self.groups = Groups(settings, self.keyring, self._storage)
            undo.callback(self.groups.close)
            self._open_points(enrolment, undo)
            self.leftovers = Leftovers(self.groups, settings, self._storage)
            self.roller = Roller(self.keeper.publish, metrics=self.metrics)
            undo.callback(self.roller.stop)
            bindings = Bindings(settings.state_dir)
            desk = Desk(self.groups, self.keyring, bindings, gate, self.roller, Senders(), clock, self.metrics)
            self._listen(desk, undo)
            self._serve_metrics(undo)
            self._undo = undo.pop_all()

    def start(self) -> None:
        """Serve, and go on with what a stop or crash has left: removals of points, cycles that are sealed."""
        self.guard.look()
        self.keeper.finish_expiries()
        self.leftovers.sweep()
        for shadow in self.groups.all():
            self.roller.start(shadow)
        self.server.start()
        self.pairing.start()
        self.operator.start()
        if self.service is not None:
            self.service.start()
        if self.metrics_server is not None:
            self.metrics_server.start()
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

    def _open_points(self, enrolment: Enrolment | None, undo: ExitStack) -> None:
        """Points, and whom to tell of them: nobody, where there is no enrolment. Then nothing is kept to be told."""
        state = self.settings.state_dir
        self.guard = ClockGuard(state, self._clock)
        undo.callback(self.guard.look)
        self.outbox: Outbox | None = None
        self.service: ConnectorService | None = None
        settings, guard = self.settings, self.guard
        if enrolment is None:
            self.keeper = PointKeeper(self.groups, self.keyring, settings.retention, guard, self._clock, _tell_nobody)
            return
        self.outbox = box = Outbox(state / "outbox", self._storage)
        self.keeper = PointKeeper(self.groups, self.keyring, settings.retention, guard, self._clock, box.put)
        client = NodeClient(enrolment, self.trust.identity, self._clock)
        undo.callback(client.close)
        self.service = ConnectorService(settings, client, self.keeper, box, guard, self._ended)
        undo.callback(self.service.stop)

    def _serve_metrics(self, undo: ExitStack) -> None:
        gauges = Gauges(
            self.groups, self._storage, self.settings.staging_dir, self._clock,
            outbox_entries=lambda: self.outbox.waiting if self.outbox is not None else 0,
            credit_in_use=lambda: self.server.credit_in_use,
            control_reachable=lambda: self.service is not None and self.service.reachable,
        )  # fmt: skip
        gauges.watch(self.metrics.registry)
        self.metrics_server: MetricsServer | None = None
        if self.settings.metrics.listen is not None:
            self.metrics_server = MetricsServer(self.settings.metrics.listen, self.metrics.registry)
            undo.callback(self.metrics_server.stop)

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
            Operations(
                self.groups,
                self.keeper,
                desk.bindings,
                trust.paired,
                self.pair_token,
                self.server.cut,
                self.roller.start,
                self.leftovers,
            ),
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
