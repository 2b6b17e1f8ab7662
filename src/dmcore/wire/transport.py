"""Bytes through one TLS connection: a non-blocking socket, a selector, an SSLObject over two memory BIOs.

OpenSSL does not allow one thread to write while another reads, so all of it belongs to one thread, which does
both by turns: nothing here blocks but `wait`, `handshake` and `linger`.
"""

import contextlib
import selectors
import socket
import ssl
from collections.abc import Callable

from dmcore.wire.errors import HandshakeRefused, PeerGone
from dmcore.wire.pacer import UNPACED, Pace
from dmcore.wire.waker import Waker

CHUNK_BYTES = 256 << 10
"""What is read from or encrypted for the socket at a time: 16 TLS records."""

KEEPALIVE = {socket.TCP_KEEPIDLE: 60, socket.TCP_KEEPINTVL: 15, socket.TCP_KEEPCNT: 4}
"""In seconds, and how often: a peer that is gone is noticed in two minutes however long a pace keeps both silent,
and what keeps track of connections on the way (NAT, firewalls, load balancers) does not forget this one."""

Clock = Callable[[], float]


class TlsTransport:
    """One end of a TLS connection. Takes the socket over, and closes it."""

    def __init__(
        self, sock: socket.socket, context: ssl.SSLContext, waker: Waker, *,
        server_hostname: str | None, clock: Clock,
    ) -> None:  # fmt: skip
        """Without a `server_hostname` this is the server's end."""
        self.peer = _tune(sock)
        self.pace: Pace = UNPACED
        self.held_s = 0.0
        """How long the pace holds back what `flush` has left; 0: it is the socket that takes no more."""
        self.sent_bytes = 0
        self.received_bytes = 0
        self._sock = sock
        self._clock = clock
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.ssl_object = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self._arrived = memoryview(bytearray(CHUNK_BYTES))
        self._pending = memoryview(b"")
        self._cut = False
        self._trusted = False  # whether a byte of the peer's has been decrypted
        self._selector = selectors.DefaultSelector()
        self._interest = selectors.EVENT_READ
        self._selector.register(sock, self._interest)
        self._selector.register(waker, selectors.EVENT_READ)

    def handshake(self, deadline: float) -> None:
        """Agree on TLS before the deadline.

        Raises:
            HandshakeRefused: no version in common, or a side does not accept the other's certificate.
            PeerGone: the peer left, or the deadline passed.
        """
        while True:
            try:
                self.ssl_object.do_handshake()
            except ssl.SSLWantReadError:
                self._flush_until(deadline)
                if not self.fill():
                    self._wait_until(deadline, writing=False)
            except ssl.SSLError as error:
                if _is_end(error):
                    raise PeerGone(peer=self.peer, problem="left during the TLS handshake") from None
                if _is_spoiled(error):
                    raise PeerGone(peer=self.peer, problem=_reason(error)) from None
                with contextlib.suppress(PeerGone):  # the alert says why; the peer may be gone already
                    self.flush()
                raise HandshakeRefused(peer=self.peer, problem=_reason(error)) from None
            else:
                return self._flush_until(deadline)

    def read_into(self, view: memoryview) -> int:
        """Decrypt what has arrived into a view that is not empty. 0: nothing more for now.

        Raises:
            PeerGone: the peer has closed, or the connection was cut or damaged.
            HandshakeRefused: the peer did not accept this node's certificate.
        """
        try:
            count = int(self.ssl_object.read(len(view), view))  # a number, as there is a buffer to fill
        except ssl.SSLWantReadError:
            return 0
        except ssl.SSLError as error:
            raise self._failed(error) from None
        if count == 0:
            raise PeerGone(peer=self.peer, problem="closed the connection")
        self._trusted = True
        return count

    def fill(self) -> bool:
        """Take what the socket has, once. False: nothing there.

        Raises:
            PeerGone: the connection was reset.
        """
        try:
            count = self._sock.recv_into(self._arrived)
        except BlockingIOError:
            return False
        except OSError as error:
            raise PeerGone(peer=self.peer, problem=str(error)) from None
        if count == 0:
            self._cut = True
            self._incoming.write_eof()
            return True
        self._incoming.write(self._arrived[:count])
        self.received_bytes += count
        return True

    def encrypt(self, view: memoryview) -> None:
        """Encrypt bytes for `flush` to send. The caller flushes between chunks: nothing here bounds them.

        Raises:
            PeerGone: the connection was cut before.
        """
        try:
            self.ssl_object.write(view)
        except ssl.SSLError as error:
            raise self._failed(error) from None

    def flush(self) -> bool:
        """Send what is encrypted. False: the socket takes no more for now, or the pace allows no more.

        Raises:
            PeerGone: the connection was reset.
        """
        self.held_s = 0.0
        while self._pending or self._outgoing.pending:
            self._pending = self._pending or memoryview(self._outgoing.read())
            allowed = self.pace.take(len(self._pending))
            if not allowed:
                self.held_s = self.pace.wait_s(len(self._pending))
                return False
            count = self._send(self._pending[:allowed])
            self.pace.give_back(allowed - count)
            if not count:
                return False
            self._pending = self._pending[count:]
            self.sent_bytes += count
        return True

    def wait(self, timeout_s: float, *, reading: bool, writing: bool) -> None:
        """Sleep until the socket is ready for what is asked, the waker is woken, or the time is over.

        What the pace holds back does not wait for the socket, but for its time.
        """
        if writing and self.held_s:
            timeout_s, writing = min(timeout_s, self.held_s), False
        interest = selectors.EVENT_READ * reading | selectors.EVENT_WRITE * writing
        if interest != self._interest:
            self._selector.modify(self._sock, interest)
            self._interest = interest
        self._selector.select(max(timeout_s, 0.0))

    def say_goodbye(self) -> None:
        """Send close_notify, best effort, and nothing after it. A pace does not hold up an end."""
        self.pace = UNPACED
        with contextlib.suppress(ssl.SSLError, PeerGone):
            # Without the peer's own, which may never come, unwrap ends in SSLWantReadError.
            with contextlib.suppress(ssl.SSLWantReadError):
                self.ssl_object.unwrap()
            self.flush()

    def linger(self, linger_s: float) -> None:
        """Say that no more is coming, and let the peer read to the end before the socket goes.

        Closing with unread bytes in the socket resets the connection: that can overtake what was sent last.
        """
        deadline = self._clock() + linger_s
        with contextlib.suppress(OSError, PeerGone):  # best effort: the peer may be gone already
            self._sock.shutdown(socket.SHUT_WR)
            while self._sock_has_more(deadline):
                pass

    def close(self) -> None:
        """Free everything. Idempotent."""
        self._selector.close()
        self._sock.close()

    def _send(self, view: memoryview) -> int:
        try:
            return self._sock.send(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise PeerGone(peer=self.peer, problem=str(error)) from None

    def _sock_has_more(self, deadline: float) -> bool:
        try:
            return self._sock.recv_into(self._arrived) > 0
        except BlockingIOError:
            self._wait_until(deadline, writing=False)
            return True

    def _flush_until(self, deadline: float) -> None:
        while not self.flush():
            self._wait_until(deadline, writing=True)

    def _wait_until(self, deadline: float, *, writing: bool) -> None:
        left_s = deadline - self._clock()
        if left_s <= 0:
            raise PeerGone(peer=self.peer, problem="did not answer in time")
        self.wait(left_s, reading=not writing, writing=writing)

    def _failed(self, error: ssl.SSLError) -> PeerGone | HandshakeRefused:
        # In TLS 1.3 a client learns only when it reads that its certificate was not accepted.
        if not self._trusted and "ALERT" in (error.reason or "") and not _is_spoiled(error):
            return HandshakeRefused(peer=self.peer, problem=_reason(error))
        return PeerGone(peer=self.peer, problem="was cut off" if self._cut else _reason(error))


def _is_end(error: ssl.SSLError) -> bool:
    """Python 3.11.2, which is Debian 12's, has no class of its own for an end without close_notify."""
    ended = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    return ended or error.reason == "UNEXPECTED_EOF_WHILE_READING"


def _is_spoiled(error: ssl.SSLError) -> bool:
    """What was sent is not what has come: a fault of the way, not a word about whom the peer trusts."""
    return "BAD_RECORD_MAC" in (error.reason or "")


def _reason(error: ssl.SSLError) -> str:
    verified = getattr(error, "verify_message", "")
    return verified or (error.reason or str(error)).replace("_", " ").lower()


def _tune(sock: socket.socket) -> str:
    sock.setblocking(False)
    if sock.family == socket.AF_UNIX:
        return "local peer"
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    try:
        host, port = sock.getpeername()[:2]
    except OSError:  # it left before it was accepted; the handshake will say so
        return "unknown peer"
    return f"{host}:{port}"
