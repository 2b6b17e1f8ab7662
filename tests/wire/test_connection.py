import os
import socket
import ssl
import struct
import threading
import time

import pytest

from dmcore.errors import ConnectionFailed, ExitCode, TrustError
from dmcore.wire import messages as m
from dmcore.wire.coding import ReceivedBatch, ReceivedMessage, encode
from dmcore.wire.connection import Connection
from dmcore.wire.errors import (
    ConnectionCancelled,
    HandshakeRefused,
    OutOfTurn,
    PeerGone,
    PeerRefused,
    ProtocolError,
    WrongThread,
)
from dmcore.wire.inbox import INBOX_RECORDS
from dmcore.wire.records import HEADER, Kind, pack_header
from dmcore.wire.transport import CHUNK_BYTES
from tests.wire.certificates import Authority, context
from tests.wire.examples import BY_TYPE, HELLO
from tests.wire.peers import TIMEOUT_S, FakeClock, Peers, tcp_pair

MIB = 1 << 20
ACK = m.Ack(batch=1, credit=1)
ERROR = BY_TYPE["error"]
DIGESTS = m.DigestsReply(first_block=0, blocks=65536)


def message(connection: Connection) -> m.Message:
    received = connection.receive(TIMEOUT_S)
    assert isinstance(received, ReceivedMessage)
    return received.message


def batch(connection: Connection) -> memoryview:
    received = connection.receive(TIMEOUT_S)
    assert isinstance(received, ReceivedBatch)
    return received.data


def encrypted(connection: Connection, plain: bytes) -> bytes:
    """What a connection would put on its socket for these bytes."""
    connection._transport.encrypt(memoryview(plain))
    return connection._transport._outgoing.read()


def flood(connection: Connection) -> None:
    """Send more than any socket buffers hold."""
    for _ in range(4):
        connection.send_batch(memoryview(bytes(8 * MIB)))


def announce_waits(connection: Connection) -> threading.Event:
    """Set as soon as the connection's owner waits for its socket."""
    waiting = threading.Event()
    original = connection._transport.wait

    def wait(timeout_s: float, *, reading: bool, writing: bool) -> None:
        waiting.set()
        original(timeout_s, reading=reading, writing=writing)

    connection._transport.wait = wait  # type: ignore[method-assign]
    return waiting


def test_messages_and_batches_go_both_ways_in_order(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.allow_batches(2)
    first, second = os.urandom(100), os.urandom(300_000)
    client.send_message(HELLO)
    client.send_batch(memoryview(first))
    client.send_batch(memoryview(bytearray(second)))
    server.send_message(m.DigestsReply(first_block=3, blocks=2), bytes(range(32)))
    assert message(server) == HELLO
    assert bytes(batch(server)) == first
    assert bytes(batch(server)) == second
    received = client.receive(TIMEOUT_S)
    assert isinstance(received, ReceivedMessage)
    assert bytes(received.payload) == bytes(range(32))


def test_the_wire_is_tls_1_3_and_its_bytes_are_counted(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.allow_batches(1)
    before = server.received_bytes
    client.send_batch(memoryview(bytes(100_000)))
    batch(server)
    assert client.ssl_object.version() == "TLSv1.3"
    assert server.ssl_object.getpeercert() is not None
    assert client.sent_bytes == server.received_bytes
    assert 100_000 < server.received_bytes - before < 101_000


def test_two_sides_that_send_64_mib_at_once_both_get_on(peers: Peers) -> None:
    client, server = peers.free_pair()
    data = bytes(8 * MIB)

    def send_all_then_receive_all(connection: Connection) -> int:
        connection.adopt()
        connection.allow_batches(8)
        for _ in range(8):
            connection.send_batch(memoryview(data))
        return sum(len(batch(connection)) for _ in range(8))

    ends = [peers.run(send_all_then_receive_all, end) for end in (client, server)]
    assert [end.result(60) for end in ends] == [64 * MIB, 64 * MIB]


def test_a_slow_reader_is_waited_for(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.allow_batches(1)
    server._transport._arrived = memoryview(bytearray(700))
    data = os.urandom(8 * MIB)

    def send() -> None:
        client.adopt()
        client.send_batch(memoryview(data))

    sent = peers.run(send)
    assert bytes(batch(server)) == data
    sent.result(TIMEOUT_S)


def test_a_peer_that_takes_nothing_is_given_up(peers: Peers) -> None:
    client, _ = peers.free_pair(stall_s=0.1)
    with pytest.raises(PeerGone, match=r"took nothing for 0\.1 s"):
        flood(client)
    with pytest.raises(PeerGone, match="over"):
        client.send_message(HELLO)


def test_unread_messages_have_a_bound_while_sending(peers: Peers) -> None:
    client, server = peers.free_pair(stall_s=0.5)
    for _ in range(2 * INBOX_RECORDS):
        client.send_message(ACK)
    with pytest.raises(PeerGone, match="took nothing"):
        flood(server)
    assert len(server._inbox._waiting) == INBOX_RECORDS


def test_unread_payloads_have_a_bound_while_sending(peers: Peers) -> None:
    client, server = peers.free_pair(stall_s=0.5)

    def send_digests() -> None:
        client.adopt()
        for _ in range(32):
            client.send_message(DIGESTS, bytes(MIB))

    sending = peers.run(send_digests)
    with pytest.raises(PeerGone, match="took nothing"):
        flood(server)
    assert 0 < len(server._inbox._waiting) < 6  # how many came in time is the machine's affair; the bound is ours
    with pytest.raises(ConnectionFailed):
        sending.result(TIMEOUT_S)


# Waiting


def test_receive_gives_none_when_the_time_is_over(peers: Peers) -> None:
    client, _ = peers.pair()
    assert client.receive(0.01) is None
    assert client.poll() is None


def test_wakeup_ends_a_receive_once(peers: Peers) -> None:
    client, _ = peers.pair()
    client.wakeup()
    client.wakeup()
    started = time.monotonic()
    assert client.receive(TIMEOUT_S) is None
    assert time.monotonic() - started < TIMEOUT_S / 2
    assert client.receive(0.01) is None


def test_wakeup_ends_a_receive_that_waits(peers: Peers) -> None:
    client, _ = peers.pair()
    waiting = announce_waits(client)

    def receive() -> object:
        client.adopt()
        return client.receive(TIMEOUT_S)

    received = peers.run(receive)
    assert waiting.wait(TIMEOUT_S)
    client.wakeup()
    assert received.result(TIMEOUT_S / 2) is None


def test_a_wakeup_while_sending_is_kept_for_the_next_receive(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.allow_batches(1)
    blocked = announce_waits(client)

    def send_then_receive() -> object:
        client.adopt()
        client.send_batch(memoryview(bytes(8 * MIB)))
        return client.receive(TIMEOUT_S)

    received = peers.run(send_then_receive)
    assert blocked.wait(TIMEOUT_S)
    client.wakeup()
    batch(server)
    assert received.result(TIMEOUT_S / 2) is None


def test_wakeup_after_close_does_nothing(peers: Peers) -> None:
    client, _ = peers.pair()
    client.close()
    client.close()
    client.wakeup()
    with pytest.raises(PeerGone, match="over"):
        client.poll()


def test_cancel_ends_whatever_the_owner_does(peers: Peers) -> None:
    client, server = peers.free_pair()
    blocked = announce_waits(client)

    def send() -> None:
        client.adopt()
        flood(client)

    sent = peers.run(send)
    assert blocked.wait(TIMEOUT_S)
    client.cancel("a newer open of the disk")
    with pytest.raises(ConnectionCancelled, match="a newer open"):
        sent.result(TIMEOUT_S / 2)
    server.cancel("shutdown")
    with pytest.raises(ConnectionCancelled, match="shutdown"):
        server.receive(TIMEOUT_S)


def test_cancel_ends_a_receive_that_waits(peers: Peers) -> None:
    client, _ = peers.pair()
    waiting = announce_waits(client)

    def receive() -> None:
        client.adopt()
        client.receive(TIMEOUT_S)

    received = peers.run(receive)
    assert waiting.wait(TIMEOUT_S)
    client.cancel("shutdown")
    with pytest.raises(ConnectionCancelled):
        received.result(TIMEOUT_S / 2)


# Ownership


@pytest.mark.parametrize("call", ["poll", "receive", "send_message", "send_batch", "allow_batches", "close"])
def test_a_foreign_thread_is_refused_until_it_adopts(peers: Peers, call: str) -> None:
    client, _ = peers.free_pair()
    arguments: dict[str, tuple[object, ...]] = {
        "receive": (0.0,),
        "send_message": (HELLO,),
        "send_batch": (memoryview(bytes(100)),),
        "allow_batches": (1,),
    }
    method, given = getattr(client, call), arguments.get(call, ())
    with pytest.raises(WrongThread):
        peers.run(method, *given).result(TIMEOUT_S)

    def adopt_and_call() -> None:
        client.adopt()
        method(*given)

    peers.run(adopt_and_call).result(TIMEOUT_S)


# Errors of the peer


def test_an_error_of_the_peer_is_raised_with_its_code(peers: Peers) -> None:
    client, server = peers.pair()
    server.send_message(ERROR)
    with pytest.raises(PeerRefused, match="epoch 3") as refused:
        client.receive(TIMEOUT_S)
    assert (refused.value.code, refused.value.exit_code) == ("lease.stale", ExitCode.BUSY)
    assert not refused.value.permanent
    assert refused.value.correlation == "c-1"


def test_an_exit_code_of_a_newer_peer_becomes_refused(peers: Peers) -> None:
    client, server = peers.pair()
    server.send_message(ERROR.model_copy(update={"exit_code": 99}))
    with pytest.raises(PeerRefused) as refused:
        client.receive(TIMEOUT_S)
    assert refused.value.exit_code is ExitCode.REFUSED


def test_an_error_stops_a_sender_that_is_blocked(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.send_message(ERROR)
    with pytest.raises(PeerRefused, match="epoch 3"):
        flood(client)


def test_an_error_is_found_though_the_peer_reset_the_connection(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.send_message(ERROR)
    reset(server)
    with pytest.raises(PeerRefused, match="epoch 3"):
        flood(client)


def test_closing_after_an_error_lets_the_peer_read_it(peers: Peers) -> None:
    client, server = peers.free_pair()

    def refuse_and_close() -> None:
        server.adopt()
        server.send_message(ERROR)
        server.close()

    client.send_batch(memoryview(bytes(100_000)))  # unread: a plain close would reset the connection
    closed = peers.run(refuse_and_close)
    with pytest.raises(PeerRefused, match="epoch 3"):
        client.receive(TIMEOUT_S)
    client.close()
    closed.result(TIMEOUT_S)


def test_lingering_ends_with_its_time(peers: Peers) -> None:
    client, server = peers.free_pair()
    server._transport._clock = FakeClock(step_s=1.5)
    server.send_message(ERROR)
    server.close()
    with pytest.raises(PeerRefused):
        client.receive(TIMEOUT_S)


# The peer goes


def reset(connection: Connection) -> None:
    """Cut with RST instead of FIN."""
    sock = connection._transport._sock
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection._transport._selector.close()
    sock.close()
    connection._closed = True


def test_a_closed_connection_is_told_from_one_cut_off(peers: Peers) -> None:
    client, server = peers.pair()
    client.close()
    with pytest.raises(PeerGone, match="closed the connection"):
        server.receive(TIMEOUT_S)
    raw, server = peers.raw_pair()
    raw.close()  # no close_notify
    with pytest.raises(PeerGone, match="was cut off"):
        server.receive(TIMEOUT_S)


def test_a_reset_is_peer_gone_for_reader_and_writer(peers: Peers) -> None:
    client, server = peers.free_pair()
    reset(client)
    with pytest.raises(PeerGone):
        server.receive(TIMEOUT_S)
    client, server = peers.free_pair()
    reset(client)
    with pytest.raises(PeerGone):
        flood(server)
    server.close()


LENGTH = len(encode(HELLO, 0)) + 22


@pytest.mark.parametrize("kept", [0, 1, 4, 5, 6, 12, 13, 14, 50, LENGTH - 17, LENGTH - 1])
def test_a_record_cut_anywhere_is_peer_gone(peers: Peers, kept: int) -> None:
    client, server = peers.free_pair()
    client._transport._sock.sendall(encrypted(client, encode(HELLO, 0))[:kept])
    client._transport._sock.shutdown(socket.SHUT_WR)
    with pytest.raises(PeerGone, match="cut off"):
        server.receive(TIMEOUT_S)


@pytest.mark.parametrize("kept", [1, 7, 8, 9, 100, 16384, 16385, 99_999])
def test_a_batch_cut_between_tls_records_is_peer_gone(peers: Peers, kept: int) -> None:
    client, server = peers.free_pair()
    server.allow_batches(1)
    plain = pack_header(Kind.BATCH, 100_000) + bytes(100_000)
    client._transport._sock.sendall(encrypted(client, plain[:kept]))
    client.close()
    with pytest.raises(PeerGone, match="closed"):
        server.receive(TIMEOUT_S)


@pytest.mark.parametrize("position", [0, 5, 20])
def test_a_changed_byte_of_tls_is_peer_gone(peers: Peers, position: int) -> None:
    client, server = peers.free_pair()
    wire = bytearray(encrypted(client, encode(HELLO, 0)))
    wire[position] ^= 1
    client._transport._sock.sendall(wire)
    with pytest.raises(PeerGone):
        server.receive(TIMEOUT_S)


# The peer breaks the protocol


@pytest.mark.parametrize(
    "plain",
    [
        pytest.param(os.urandom(4000), id="garbage"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="http"),
        pytest.param(HEADER.pack(3, bytes(3), 100), id="unknown kind"),
        pytest.param(HEADER.pack(1, bytes(3), 1 << 31), id="oversize"),
        pytest.param(pack_header(Kind.MESSAGE, 6) + b"\0\0\0\2[]", id="no message"),
        pytest.param(pack_header(Kind.BATCH, 100), id="batch without credit"),
        pytest.param(encode(ACK, 0), id="out of turn"),
    ],
)
def test_what_is_not_allowed_is_a_protocol_error_that_names_the_peer(peers: Peers, plain: bytes) -> None:
    raw, server = peers.raw_pair()
    raw.sendall(plain)
    with pytest.raises(ProtocolError, match=r"127\.0\.0\.1:\d+ broke") as broken:
        server.receive(TIMEOUT_S)
    assert broken.value.permanent
    assert isinstance(broken.value, ConnectionFailed)


def test_a_node_does_not_send_out_of_turn(peers: Peers) -> None:
    client, server = peers.pair()
    with pytest.raises(OutOfTurn, match="ack may not be sent while connected"):
        server.send_message(ACK)
    with pytest.raises(OutOfTurn):
        client.send_batch(memoryview(bytes(100)))
    client.send_message(HELLO)
    assert message(server) == HELLO


@pytest.mark.parametrize("length", [10, 9 * MIB])
def test_an_impossible_batch_is_not_sent(peers: Peers, length: int) -> None:
    client, _ = peers.free_pair()
    with pytest.raises(ValueError, match="BATCH"):
        client.send_batch(memoryview(bytes(length)))


# Making a connection


def refuse(peers: Peers, server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[Exception, Exception]:
    """The errors at the server and at the client."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = peers.run(lambda: Connection.accept(listener.accept()[0], server, TIMEOUT_S))
        with pytest.raises(TrustError) as at_client:  # noqa: PT012 - either call may be the one that learns of it
            made = Connection.connect("127.0.0.1", listener.getsockname()[1], client, TIMEOUT_S)
            try:
                made.receive(TIMEOUT_S)
            finally:
                made.close()
    error = accepting.exception(TIMEOUT_S)
    assert isinstance(error, Exception)
    return error, at_client.value


def test_a_client_without_a_certificate_is_refused_and_learns_why(peers: Peers, authority: Authority) -> None:
    errors = refuse(peers, peers.server_context, context(ssl.PROTOCOL_TLS_CLIENT, authority, None))
    assert all(isinstance(error, HandshakeRefused) for error in errors)
    assert "certificate required" in str(errors[1])


def test_a_client_of_another_authority_is_refused_and_learns_why(
    peers: Peers, authority: Authority, stranger: Authority
) -> None:
    client = context(ssl.PROTOCOL_TLS_CLIENT, authority, stranger.issue("client"))
    errors = refuse(peers, peers.server_context, client)
    assert all(isinstance(error, HandshakeRefused) for error in errors)


def test_a_server_of_another_authority_is_refused(peers: Peers, authority: Authority, stranger: Authority) -> None:
    server = context(ssl.PROTOCOL_TLS_SERVER, authority, stranger.issue("server"))
    errors = refuse(peers, server, peers.client_context)
    assert all(isinstance(error, HandshakeRefused) for error in errors)


def test_tls_1_2_is_refused(peers: Peers, authority: Authority) -> None:
    client = context(ssl.PROTOCOL_TLS_CLIENT, authority, authority.issue("old"))
    client.minimum_version = ssl.TLSVersion.TLSv1_2
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    errors = refuse(peers, peers.server_context, client)
    assert all("protocol" in str(error) for error in errors)


@pytest.mark.parametrize("said", [b"", b"\x16\x03", b"GET / HTTP/1.1\r\n\r\n"])
def test_a_client_that_does_not_speak_tls(peers: Peers, said: bytes) -> None:
    plain, accepted = tcp_pair()
    with plain:
        plain.sendall(said)
        plain.shutdown(socket.SHUT_WR)
        with pytest.raises((PeerGone, HandshakeRefused)):
            Connection.accept(accepted, peers.server_context, TIMEOUT_S)
    assert accepted.fileno() == -1


def test_a_handshake_has_a_deadline(peers: Peers) -> None:
    plain, accepted = tcp_pair()
    with plain, pytest.raises(PeerGone, match="in time"):
        Connection.accept(accepted, peers.server_context, 0.05)


def test_a_client_that_left_before_it_was_accepted(peers: Peers) -> None:
    plain, accepted = tcp_pair()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    plain.close()
    with pytest.raises(PeerGone, match="unknown peer"):
        Connection.accept(accepted, peers.server_context, TIMEOUT_S)


def test_a_handshake_over_a_local_socket(peers: Peers) -> None:
    plain, accepted = socket.socketpair()
    with plain, pytest.raises(PeerGone, match="local peer"):
        Connection.accept(accepted, peers.server_context, 0.05)


@pytest.mark.parametrize("host", ["127.0.0.1", "no.such.host.invalid", "x" * 300])
def test_nobody_there(peers: Peers, host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(PeerGone, match="cannot connect"):
        Connection.connect(host, port, peers.client_context, 2.0)


def test_a_chunk_is_a_whole_number_of_tls_records() -> None:
    assert CHUNK_BYTES % (16 << 10) == 0


def test_a_write_that_fails_without_a_word_of_the_peer(peers: Peers, monkeypatch: pytest.MonkeyPatch) -> None:
    client, _ = peers.free_pair()

    def broken_pipe() -> bool:
        raise PeerGone(peer="peer", problem="broken pipe")

    monkeypatch.setattr(client._transport, "flush", broken_pipe)
    with pytest.raises(PeerGone, match="broken pipe"):
        client.send_message(HELLO)
    client.close()


def test_lingering_on_a_reset_connection_is_no_error(peers: Peers) -> None:
    client, server = peers.free_pair()
    server.send_message(ERROR)
    reset(client)
    server.close()
    assert server._transport._sock.fileno() == -1
