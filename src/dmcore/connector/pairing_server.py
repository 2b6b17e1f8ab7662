"""The pairing endpoint's sockets: TLS 1.3 with the server's certificate only, one question a connection.

Anybody can reach it, so everything is bounded: connections at a time, seconds for each, bytes of a request.
"""

import socket
import ssl
import time
from collections.abc import Callable

import structlog

from dmcore.connector.listener import Listener, tcp_listening
from dmcore.connector.pairing import PairingDesk
from dmcore.host.address import Address
from dmcore.node.pairing_errors import MessageMalformed
from dmcore.node.pairing_link import framed, receive
from dmcore.node.pairing_token import Refusal

MAX_AT_ONCE = 8

log = structlog.get_logger()


class PairingServer:
    """A listener that answers. Its threads are gone, and who was connected is cut, when `stop` returns."""

    def __init__(
        self,
        listen: Address,
        context: ssl.SSLContext,
        desk: PairingDesk,
        *,
        timeout_s: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Listens from now on. Raises ListenFailed."""
        self._context, self._desk, self._timeout_s, self._monotonic = context, desk, timeout_s, monotonic
        self._listener = Listener("pairing", tcp_listening(listen), self._serve, MAX_AT_ONCE)

    @property
    def address(self) -> Address:
        """Where it really listens: useful after asking for port 0."""
        return self._listener.address

    def start(self) -> None:
        """Accept from now on."""
        self._listener.start()

    def stop(self) -> None:
        """Accept nobody more, cut who is connected, join every thread. Idempotent."""
        self._listener.stop()

    def _serve(self, plain: socket.socket) -> None:
        deadline = self._monotonic() + self._timeout_s
        try:
            with plain:
                plain.settimeout(self._timeout_s)
                with self._context.wrap_socket(plain, server_side=True) as tls:
                    self._answer(tls, deadline)
        except OSError as problem:  # ssl.SSLError too: a peer that trusts us not, or left
            log.info("pairing connection ended", problem=str(problem))

    def _answer(self, tls: ssl.SSLSocket, deadline: float) -> None:
        try:
            answer = self._desk.answer(receive(tls, deadline))
        except MessageMalformed as refused:
            answer = Refusal(refused=refused.code)
        if isinstance(answer, Refusal):
            log.warning("pairing refused", code=answer.refused, peer=tls.getpeername()[0])
        tls.sendall(framed(answer))
