"""The data-plane server: mutual TLS in, one thread a connection, a control or a disk session on each."""

import socket
import ssl
import threading
from collections.abc import Callable
from uuid import uuid4

import structlog

from dmcore.connector.control_session import ControlSession, Desk
from dmcore.connector.disk_session import DiskSession
from dmcore.connector.errors import ConnectorFault
from dmcore.connector.listener import Listener, tcp_listening
from dmcore.connector.paired import PairedList
from dmcore.errors import ConnectionFailed, DmcoreError
from dmcore.host.address import Address
from dmcore.model.ids import NodeId
from dmcore.model.names import NodeName
from dmcore.targets.errors import TargetIOFailed
from dmcore.wire.connection import Connection
from dmcore.wire.credit import CreditBudget
from dmcore.wire.messages import ConnectionKind
from dmcore.wire.serving import greet, send_error
from dmcore.wire.tls import peer_name

log = structlog.get_logger()


class Server:
    """Owns the listener and the connections. Every thread is joined when `stop` returns."""

    def __init__(
        self,
        listen: Address,
        context: ssl.SSLContext,
        desk: Desk,
        paired: PairedList,
        budget: CreditBudget,
        *,
        max_connections: int,
        handshake_timeout_s: float,
    ) -> None:
        self._context, self._desk, self._paired, self._budget = context, desk, paired, budget
        self._handshake_timeout_s = handshake_timeout_s
        self._lock = threading.Lock()
        self._connections: dict[Connection, NodeId | None] = {}
        self._stopping = False
        self._listener = Listener("data", tcp_listening(listen), self._serve, max_connections)

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._listener.address

    @property
    def credit_in_use(self) -> int:
        """The batches that senders may send, or have sent, and that are not durable yet."""
        return self._budget.held

    def start(self) -> None:
        """Serve from now on."""
        self._listener.start()

    def stop(self) -> None:
        """Cut every connection and join every thread. What was not acknowledged is sent again. Idempotent."""
        with self._lock:
            self._stopping = True
            for connection in self._connections:
                connection.cancel("the connector is stopping")
        self._listener.stop()

    def cut(self, node: NodeId, why: str) -> int:
        """End the connections that a node has now. Returns how many those are.

        Called after the node was unpaired: a connection that is being made meanwhile is refused for that.
        """
        with self._lock:
            theirs = [connection for connection, peer in self._connections.items() if peer == node]
            for connection in theirs:
                connection.cancel(why)
        return len(theirs)

    def _serve(self, sock: socket.socket) -> None:
        try:
            connection = Connection.accept(sock, self._context, self._handshake_timeout_s)
        except DmcoreError as error:
            log.warning("handshake refused", code=error.code, problem=str(error))
            return
        except OSError as error:  # no descriptors are left
            log.error("connection lost", problem=str(error))
            return
        try:
            self._enter(connection, None)
            self._converse(connection)
        finally:
            with self._lock:
                del self._connections[connection]
            connection.close()

    def _enter(self, connection: Connection, node: NodeId | None) -> None:
        with self._lock:
            self._connections[connection] = node
            if self._stopping:
                connection.cancel("the connector is stopping")

    def _converse(self, connection: Connection) -> None:
        """One session, its end logged, and told to the peer if it is this side's doing."""
        ids = {"peer": connection.peer, "correlation": uuid4().hex}
        try:
            session, peer = self._greet(connection)
            ids["node"] = peer.node
            session()
        except ConnectionFailed as error:
            log.info("connection ended", code=error.code, problem=str(error), **ids)
            self._tell(connection, error, ids)
        except DmcoreError as error:
            log.warning("connection refused", code=error.code, problem=str(error), **ids)
            self._tell(connection, error, ids)
        except OSError as error:
            log.exception("connection failed", **ids)
            where = str(error.filename or "connector")
            problem = error.strerror or str(error)
            self._tell(connection, TargetIOFailed(path=where, operation="serve", offset=0, problem=problem), ids)
        except Exception as error:
            log.exception("connection failed", **ids)
            self._tell(connection, ConnectorFault(problem=type(error).__name__, correlation=ids["correlation"]), ids)

    def _greet(self, connection: Connection) -> tuple[Callable[[], None], NodeName]:
        """Who is there, and whether it is paired now: before anything is done for it."""
        peer, node = peer_name(connection.ssl_object)
        self._enter(connection, node)  # before the look at the list: see `cut`
        self._paired.require(node)
        hello = greet(connection, self._handshake_timeout_s)
        if hello.connection is ConnectionKind.CONTROL:
            return ControlSession(connection, peer, self._desk).run, peer
        return DiskSession(connection, peer, self._desk, self._budget).run, peer

    def _tell(self, connection: Connection, error: DmcoreError, ids: dict[str, str]) -> None:
        error.correlation = error.correlation or ids["correlation"]
        send_error(connection, error)
