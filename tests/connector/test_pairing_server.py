import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from dmcore.connector.pairing_server import MAX_AT_ONCE
from dmcore.node.pairing_link import framed
from dmcore.node.pairing_token import AuthorityAnswer, AuthorityRequest, Refusal
from dmcore.wire.tls import pairing_client_context
from tests.trust_kit import ConnectorKit, make_connector


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[ConnectorKit]:
    kit = make_connector(tmp_path, timeout_s=0.5)
    kit.server.start()
    yield kit
    kit.server.stop()


def plain(connector: ConnectorKit) -> socket.socket:
    address = connector.server.address
    return socket.create_connection((address.host, address.port), timeout=10)


def say(connector: ConnectorKit, data: bytes, *, end: bool = False) -> bytes:
    with plain(connector) as raw, pairing_client_context(None).wrap_socket(raw) as tls:
        tls.sendall(data)
        if end:
            return b""
        return b"".join(iter(lambda: tls.recv(65536), b""))


def test_answers(connector: ConnectorKit) -> None:
    answer = AuthorityAnswer(authority=connector.authority.pem)
    assert say(connector, framed(AuthorityRequest())) == framed(answer)


def test_too_long_a_request_is_not_read(connector: ConnectorKit) -> None:
    assert say(connector, (65537).to_bytes(4, "big")) == framed(Refusal(refused="pairing.message"))


@pytest.mark.parametrize("data", [b"", b"\0", framed(AuthorityRequest())[:-1]], ids=["nothing", "length", "body"])
def test_a_peer_that_never_finishes_is_cut_off(connector: ConnectorKit, data: bytes) -> None:
    assert say(connector, data) == b""


def test_a_peer_that_speaks_no_tls_is_cut_off(connector: ConnectorKit) -> None:
    with plain(connector) as raw:
        raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert raw.recv(4096) == b""
    assert say(connector, framed(AuthorityRequest()))


def test_a_silent_peer_is_cut_off(connector: ConnectorKit) -> None:
    with plain(connector) as raw:
        assert raw.recv(1) == b""


def test_a_peer_that_ends_early_is_forgotten(connector: ConnectorKit) -> None:
    say(connector, b"\0\0", end=True)
    assert say(connector, framed(AuthorityRequest()))


def test_tls_1_2_is_refused(connector: ConnectorKit) -> None:
    context = pairing_client_context(None)
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2
    with plain(connector) as raw, pytest.raises(ssl.SSLError):
        context.wrap_socket(raw)


def test_more_than_it_holds_are_turned_away(tmp_path: Path) -> None:
    connector = make_connector(tmp_path, timeout_s=30)
    connector.server.start()
    silent = [plain(connector) for _ in range(MAX_AT_ONCE)]
    with plain(connector) as one_more:
        assert one_more.recv(1) == b""
    connector.server.stop()  # and need not wait for the silent ones
    for connection in silent:
        connection.close()


def test_stop_joins_everything(tmp_path: Path) -> None:
    connector = make_connector(tmp_path, timeout_s=30)
    before, address = set(threading.enumerate()), connector.server.address
    connector.server.start()
    with plain(connector) as waiting:
        say(connector, framed(AuthorityRequest()))
        connector.server.stop()
        assert waiting.recv(1) == b""
    connector.server.stop()
    assert set(threading.enumerate()) == before
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port))
