"""One TLS 1.3 connection, owned by one thread: messages and batches in both directions (docs/protocol.md)."""

import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack

from dmcore.wire.coding import Received, encode
from dmcore.wire.errors import ConnectionCancelled, HandshakeRefused, HeldBack, PeerGone, WrongThread
from dmcore.wire.inbox import Inbox
from dmcore.wire.messages import ErrorMessage, Message
from dmcore.wire.pacer import Pace
from dmcore.wire.records import Kind, pack_header
from dmcore.wire.states import Dialogue, Side
from dmcore.wire.transport import CHUNK_BYTES, Clock, TlsTransport
from dmcore.wire.waker import Waker

STALL_S = 60.0
"""How long a peer may take nothing of what is being sent to it."""
PATIENCE_S = 60.0
"""How long a pause may keep a half-sent record: then the connection ends, and its credit and buffers serve others."""
LINGER_S = 2.0
"""How long a closing side that sent an error lets the peer read it."""

Dial = Callable[[str, int, float], socket.socket]
"""A connected socket: host, port, seconds at most. Raises OSError, or UnicodeError for what is no host name."""


def dial(host: str, port: int, timeout_s: float) -> socket.socket:
    """Over the machine's network."""
    return socket.create_connection((host, port), timeout_s)


class Connection:
    """A conversation with one peer. Every method but `wakeup` and `cancel` belongs to the owner's thread.

    The owner is the thread that made the connection, until another one calls `adopt`. After any error but
    WrongThread, MessageTooLarge or OutOfTurn the connection is only good for `close`, and before that for
    `send_error` (serving.py) if the error was not one of sending.
    """

    def __init__(self, transport: TlsTransport, waker: Waker, side: Side, clock: Clock, stall_s: float) -> None:
        """Use `connect` or `accept`."""
        self.clock = clock
        self.dialogue = Dialogue(side)
        self._transport = transport
        self._waker = waker
        self._stall_s = stall_s
        self._inbox = Inbox(transport.peer, self.dialogue)
        self._cancelled = ""
        self._woken = False
        self._half_sent = False
        self._linger_s = 0.0
        self._closed = False
        self._owner = threading.get_ident()

    @classmethod
    def connect(
        cls, host: str, port: int, context: ssl.SSLContext, timeout_s: float, *,
        clock: Clock = time.monotonic, stall_s: float = STALL_S, dial: Dial = dial,
    ) -> "Connection":  # fmt: skip
        """Connect and agree on TLS. Whether the server takes this node's certificate, the first receive says.

        Raises:
            PeerGone: nobody there, or no answer in time.
            HandshakeRefused: no TLS that both sides accept.
        """
        deadline = clock() + timeout_s
        try:
            sock = dial(host, port, timeout_s)
        except (OSError, UnicodeError) as error:  # UnicodeError: not even the form of a host name
            raise PeerGone(peer=f"{host}:{port}", problem=f"cannot connect: {error}") from None
        return cls._establish(sock, context, host, deadline, clock=clock, stall_s=stall_s)

    @classmethod
    def accept(
        cls, sock: socket.socket, context: ssl.SSLContext, timeout_s: float, *,
        clock: Clock = time.monotonic, stall_s: float = STALL_S,
    ) -> "Connection":  # fmt: skip
        """Agree on TLS with a client that has just connected. The socket is taken over, also on failure.

        Raises:
            PeerGone, HandshakeRefused: as `connect`.
        """
        return cls._establish(sock, context, None, clock() + timeout_s, clock=clock, stall_s=stall_s)

    @classmethod
    def _establish(
        cls, sock: socket.socket, context: ssl.SSLContext, hostname: str | None, deadline: float, *,
        clock: Clock, stall_s: float,
    ) -> "Connection":  # fmt: skip
        side = Side.SERVER if hostname is None else Side.CLIENT
        with ExitStack() as undo:
            undo.callback(sock.close)
            waker = Waker()
            undo.callback(waker.close)
            transport = TlsTransport(sock, context, waker, server_hostname=hostname, clock=clock)
            undo.callback(transport.close)
            try:
                transport.handshake(deadline)
            except HandshakeRefused:
                transport.linger(LINGER_S)  # the peer must get to read why
                raise
            undo.pop_all()
        return cls(transport, waker, side, clock, stall_s)

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """For the peer's certificate."""
        return self._transport.ssl_object

    @property
    def peer(self) -> str:
        """The peer's address, for people."""
        return self._transport.peer

    @property
    def sent_bytes(self) -> int:
        """What went to the socket, TLS included."""
        return self._transport.sent_bytes

    @property
    def received_bytes(self) -> int:
        """What came from the socket, TLS included."""
        return self._transport.received_bytes

    # From any thread

    def wakeup(self) -> None:
        """Let the owner's `receive`, or its next one, return None."""
        self._waker.wake()

    def cancel(self, why: str) -> None:
        """Let what the owner is doing here, or does next, raise ConnectionCancelled."""
        self._cancelled = why
        self._waker.wake()

    # The owner's

    def adopt(self) -> None:
        """Make the calling thread the owner. The caller sees to it that the old one is done."""
        self._owner = threading.get_ident()

    def use_pace(self, pace: Pace) -> None:
        """Send no faster than this from now on."""
        self._check_owner()
        self._transport.pace = pace

    def allow_batches(self, count: int) -> None:
        """Let the peer send so many more batches. One too many is a ProtocolError before its body is read."""
        self._check()
        self._inbox.reader.batches_allowed += count

    def send_message(self, message: Message, payload: bytes | bytearray | memoryview = b"") -> None:
        """Send a message; returns when all of it is with the operating system. Keeps reading meanwhile.

        Raises:
            MessageTooLarge, OutOfTurn: nothing was sent.
            PeerRefused: the peer said why it is leaving.
            PeerGone: it left, or took nothing for the stall time.
            HeldBack: the pace has been paused for so long that others should have what this connection holds.
        """
        self._check()
        view = memoryview(payload).cast("B")
        record = encode(message, len(view))
        self.dialogue.sent(message)
        self._send(record, view)
        if isinstance(message, ErrorMessage):
            self._linger_s = LINGER_S

    def send_batch(self, data: memoryview) -> None:
        """Send one sealed batch; its buffer may be reused when this returns. Raises as `send_message`."""
        self._check()
        view = data.cast("B")
        header = pack_header(Kind.BATCH, len(view))
        self.dialogue.sent(None)
        self._send(header, view)

    def receive(self, timeout_s: float) -> Received | None:
        """The next message or batch. None: the time is over, or somebody called `wakeup`.

        What has come goes first: under a steady flow look after each receive for what a wakeup would stand for.

        Raises:
            PeerRefused: the peer sent an error.
            ProtocolError: it sent what it may not.
            PeerGone: it left.
        """
        deadline = self.clock() + timeout_s
        while (received := self.poll()) is None:
            left_s = deadline - self.clock()
            if self._take_wakeup() or left_s <= 0:
                return None
            self._transport.wait(left_s, reading=True, writing=not self._transport.flush())
        return received

    def poll(self) -> Received | None:
        """What `receive` would give without waiting. None: nothing whole has come."""
        self._check()
        while (received := self._inbox.take()) is None:
            if not self._advance():
                return None
        return received

    def close(self) -> None:
        """Say close_notify, best effort, and free everything. Idempotent."""
        self._check_owner()
        if self._closed:
            return
        self._closed = True
        if not self._half_sent:
            self._transport.say_goodbye()
        if self._linger_s:
            self._transport.linger(self._linger_s)
        self._transport.close()
        self._waker.close()

    # Inside

    def _check_owner(self) -> None:
        if threading.get_ident() != self._owner:
            raise WrongThread(peer=self.peer)

    def _check(self) -> None:
        self._check_owner()
        if self._cancelled:
            raise ConnectionCancelled(peer=self.peer, problem=self._cancelled)
        if self._closed or self._half_sent:
            raise PeerGone(peer=self.peer, problem="this connection is over")

    def _take_wakeup(self) -> bool:
        woken, self._woken = self._waker.take() or self._woken, False
        if self._cancelled:
            raise ConnectionCancelled(peer=self.peer, problem=self._cancelled)
        return woken

    def _advance(self) -> bool:
        """Decrypt or receive a little. False: there is nothing for now."""
        count = self._transport.read_into(self._inbox.reader.wanted())
        if count:
            self._inbox.filled(count)
            return True
        return self._transport.fill()

    def _send(self, head: bytes, body: memoryview) -> None:
        self._half_sent = True
        self._transport.encrypt(memoryview(head))
        for start in range(0, len(body), CHUNK_BYTES):
            self._transport.encrypt(body[start : start + CHUNK_BYTES])
            self._flush()
        self._flush()
        self._half_sent = False

    def _flush(self) -> None:
        sent_bytes, since = self.sent_bytes, self.clock()
        while not self._flushed():
            self._take_what_came()
            held, paused = self._transport.held_s > 0, self._transport.pace.paused
            if self.sent_bytes != sent_bytes or (held and not paused):  # a slow pace is no fault of the peer's
                sent_bytes, since = self.sent_bytes, self.clock()
            left_s = since + (PATIENCE_S if held else self._stall_s) - self.clock()
            if left_s <= 0 and held:
                raise HeldBack(peer=self.peer)
            if left_s <= 0:
                raise PeerGone(peer=self.peer, problem=f"took nothing for {self._stall_s:g} s")
            self._transport.wait(left_s, reading=not self._inbox.full, writing=True)
            self._woken = self._take_wakeup() or self._woken

    def _flushed(self) -> bool:
        try:
            return self._transport.flush()
        except PeerGone:
            self._take_what_came()  # it may have said why before it left
            raise

    def _take_what_came(self) -> None:
        """Read while there is room: two peers that send to each other at once must both get on."""
        while not self._inbox.full and self._inbox.refused is None and self._advance():
            pass
        if self._inbox.refused is not None:
            raise self._inbox.refused
