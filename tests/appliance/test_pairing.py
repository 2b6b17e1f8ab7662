import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from dmcore.appliance.pairing import load_pairing, load_pairings, pair
from dmcore.connector.pairing import PairingDesk
from dmcore.errors import DmcoreError
from dmcore.host.address import Address
from dmcore.host.errors import FileBroken
from dmcore.model.ids import NodeId
from dmcore.node.identity import Identity, load_identity
from dmcore.node.pairing_errors import (
    AuthorityMismatch,
    ConnectorUnreachable,
    NotPaired,
    PairingRefused,
    TokenExpired,
    TokenMalformed,
    TokenOtherSite,
    TokenUnknown,
    TokenUsed,
)
from dmcore.node.pairing_link import framed, receive
from dmcore.node.pairing_token import (
    AuthorityAnswer,
    Message,
    PairAnswer,
    PairingToken,
    PairRequest,
    Refusal,
    parse_request,
)
from dmcore.wire.tls import client_context, connector_name, pairing_server_context, peer_name, server_context
from dmcore.wire.trust_errors import OtherConnector
from tests.trust_kit import DATA_ADDRESS, OTHER_SITE, SITE, ConnectorKit, csr_of, handshake, make_connector, new_key


@pytest.fixture
def connector(tmp_path: Path) -> Iterator[ConnectorKit]:
    kit = make_connector(tmp_path / "connector")
    kit.server.start()
    yield kit
    kit.server.stop()


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "appliance"


@pytest.fixture
def identity(state: Path) -> Identity:
    return load_identity(state)


def changed(text: str, **change: object) -> str:
    return PairingToken.decode(text).model_copy(update=change).encode()


def test_paired_and_connected(connector: ConnectorKit, identity: Identity, state: Path) -> None:
    pairing = pair(connector.token(), identity, SITE, state)
    assert (pairing.connector, pairing.address, pairing.site) == (connector.identity.node, DATA_ADDRESS, SITE)
    assert load_pairing(state, connector.identity.node) == pairing
    assert load_pairings(state) == [pairing]
    assert connector.paired.is_paired(identity.node)
    server = server_context(
        connector.certificate_path, connector.identity.key_path, connector.authority.certificate_path
    )
    client = client_context(pairing.certificate_path, identity.key_path, pairing.authority_path)
    at_server, at_client = handshake(
        server, client, at_server=peer_name, at_client=lambda tls: connector_name(tls, pairing.connector)
    )
    assert isinstance(at_server, tuple)
    assert at_server[1] == identity.node
    assert not isinstance(at_client, Exception)


def test_one_pairing_for_each_connector(
    connector: ConnectorKit, identity: Identity, state: Path, tmp_path: Path
) -> None:
    second = make_connector(tmp_path / "second")
    second.server.start()
    nodes = {pair(kit.token(), identity, SITE, state).connector for kit in (connector, second)}
    second.server.stop()
    assert {pairing.connector for pairing in load_pairings(state)} == nodes


def test_paired_again(connector: ConnectorKit, identity: Identity, state: Path) -> None:
    first = pair(connector.token(), identity, SITE, state).certificate_path.read_bytes()
    assert pair(connector.token(), identity, SITE, state).certificate_path.read_bytes() != first
    assert len(connector.paired.all()) == 1


def test_token_used_twice(connector: ConnectorKit, identity: Identity, state: Path, tmp_path: Path) -> None:
    token = connector.token()
    pair(token, identity, SITE, state)
    second = load_identity(tmp_path / "second")
    with pytest.raises(TokenUsed, match="pair-token"):
        pair(token, second, SITE, tmp_path / "second")
    assert not connector.paired.is_paired(second.node)
    assert load_pairings(tmp_path / "second") == []


def test_two_racing(connector: ConnectorKit, tmp_path: Path) -> None:
    token = connector.token()

    def try_pair(number: int) -> str:
        state = tmp_path / str(number)
        try:
            return pair(token, load_identity(state), SITE, state).connector
        except DmcoreError as refused:
            return refused.code

    with ThreadPoolExecutor(2) as pool:
        outcomes = sorted(pool.map(try_pair, range(2)))
    assert outcomes == sorted([connector.identity.node, TokenUsed.code])
    assert len(connector.paired.all()) == 1


def test_token_expired(connector: ConnectorKit, identity: Identity, state: Path) -> None:
    token = connector.token()
    connector.clock.advance(hours=1)
    with pytest.raises(TokenExpired):
        pair(token, identity, SITE, state)


def test_token_unknown(connector: ConnectorKit, identity: Identity, state: Path) -> None:
    with pytest.raises(TokenUnknown):
        pair(changed(connector.token(), secret="x" * 43), identity, SITE, state)


def test_token_malformed(identity: Identity, state: Path) -> None:
    with pytest.raises(TokenMalformed):
        pair("dmpair1.x", identity, SITE, state)


def test_token_for_another_site_is_not_used_up(connector: ConnectorKit, identity: Identity, state: Path) -> None:
    token = connector.token(OTHER_SITE)
    with pytest.raises(TokenOtherSite, match=f"{OTHER_SITE}.*{SITE}"):
        pair(token, identity, SITE, state)
    assert pair(token, identity, OTHER_SITE, state).site == OTHER_SITE


def test_another_authority(connector: ConnectorKit, identity: Identity, state: Path) -> None:
    with pytest.raises(AuthorityMismatch, match="another fingerprint"):
        pair(changed(connector.token(), authority_sha256="00" * 32), identity, SITE, state)


def test_another_connector_of_that_authority_gets_no_secret(
    connector: ConnectorKit, identity: Identity, state: Path
) -> None:
    token = connector.token()
    with pytest.raises(OtherConnector):
        pair(changed(token, connector=NodeId("ab" * 32)), identity, SITE, state)
    assert pair(token, identity, SITE, state)  # so it was not used up


def test_unreachable(connector: ConnectorKit, identity: Identity, state: Path) -> None:
    connector.server.stop()
    with pytest.raises(ConnectorUnreachable, match="refused") as refused:
        pair(make_unreachable(connector), identity, SITE, state)
    assert not refused.value.permanent


def make_unreachable(connector: ConnectorKit) -> str:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = Address("127.0.0.1", listener.getsockname()[1])
    return PairingToken(
        connector=connector.identity.node,
        authority_sha256=connector.authority.fingerprint,
        addresses=(address,),
        site=SITE,
        secret=connector.tokens.make(SITE),
    ).encode()


def test_the_next_address_is_tried(connector: ConnectorKit, identity: Identity, state: Path) -> None:
    dead = PairingToken.decode(make_unreachable(connector)).addresses
    token = changed(connector.token(), addresses=(*dead, connector.server.address))
    assert pair(token, identity, SITE, state)


# Connectors that are not what they should be

Answers = Callable[[PairingDesk, bytes], Message | bytes]


@contextmanager
def posing(kit: ConnectorKit, answers: Answers, context: ssl.SSLContext | None = None) -> Iterator[str]:
    """A token for a server with the connector's certificate whose answers are made by `answers`."""
    desk = PairingDesk(kit.authority, kit.identity.node, DATA_ADDRESS, kit.tokens, kit.paired, kit.clock)
    used = context or pairing_server_context(kit.certificate_path, kit.identity.key_path)

    def serve() -> None:
        while True:
            connection = listener.accept()[0]
            with connection:
                if connection.recv(1, socket.MSG_PEEK) != b"\x16":  # no TLS: time to end
                    return
                serve_one(connection)

    def serve_one(connection: socket.socket) -> None:
        try:
            with used.wrap_socket(connection, server_side=True) as tls:
                answer = answers(desk, receive(tls, time.monotonic() + 10))
                tls.sendall(answer if isinstance(answer, bytes) else framed(answer))
        except (OSError, DmcoreError):
            pass  # the client does not trust us: that is the point

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = Address(*listener.getsockname()[:2])
        thread = threading.Thread(target=serve)
        thread.start()
        yield PairingToken(
            connector=kit.identity.node,
            authority_sha256=kit.authority.fingerprint,
            addresses=(address,),
            site=SITE,
            secret=kit.tokens.make(SITE),
        ).encode()
        with socket.create_connection((address.host, address.port)) as last:
            last.sendall(b"x")
            thread.join()


def on_pair(change: Callable[[PairingDesk, PairAnswer], Message | bytes]) -> Answers:
    def answers(desk: PairingDesk, data: bytes) -> Message | bytes:
        answer = desk.answer(data)
        return change(desk, answer) if isinstance(answer, PairAnswer) else answer

    return answers


def other_key(desk: PairingDesk, answer: PairAnswer) -> PairAnswer:
    certificate = desk.authority.issue_client(csr_of(new_key()), SITE).public_bytes(Encoding.PEM).decode()
    return answer.model_copy(update={"certificate": certificate})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _, answer: answer.model_copy(update={"certificate": "x"}), "broken"),
        (lambda _, answer: answer.model_copy(update={"certificate": answer.authority}), "broken"),
        (other_key, "for another node"),
        (lambda _, answer: answer.model_copy(update={"connector": "ab" * 32}), "calls itself"),
        (lambda *_: Refusal(refused="pairing.version"), "pairing.version"),
        (lambda *_: b"\0\0\0\x02{}", "as a connector does"),
        (lambda *_: b"\0\0\0\x02{", "as a connector does"),
        (lambda *_: b"\xff\xff\xff\xff", "as a connector does"),
    ],
    ids=["garbage", "authority", "other key", "other connector", "refused", "no answer", "cut short", "too long"],
)
def test_a_connector_whose_answer_is_wrong(
    connector: ConnectorKit,
    identity: Identity,
    state: Path,
    change: Callable[[PairingDesk, PairAnswer], Message | bytes],
    message: str,
) -> None:
    with posing(connector, on_pair(change)) as token, pytest.raises(PairingRefused, match=message):
        pair(token, identity, SITE, state)
    assert load_pairings(state) == []


@pytest.mark.parametrize("answer", [b"\0\0\0\x02{}", b"\0\0\0", framed(AuthorityAnswer(authority="x"))])
def test_a_stranger_at_the_address(connector: ConnectorKit, identity: Identity, state: Path, answer: bytes) -> None:
    with posing(connector, lambda *_: answer) as token, pytest.raises(AuthorityMismatch, match="as a connector does"):
        pair(token, identity, SITE, state)


def test_somebody_between_never_sees_the_secret(
    connector: ConnectorKit, identity: Identity, state: Path, tmp_path: Path
) -> None:
    """It repeats the true authority, and even appends its own, but cannot prove to hold a certificate of the first."""
    between = make_connector(tmp_path / "between")
    between.server.stop()
    context = pairing_server_context(between.certificate_path, between.identity.key_path)
    seen: list[object] = []

    def answers(desk: PairingDesk, data: bytes) -> Message:
        seen.append(parse_request(data))
        return AuthorityAnswer(authority=connector.authority.pem + between.authority.pem)

    with posing(connector, answers, context) as token, pytest.raises(AuthorityMismatch):
        pair(token, identity, SITE, state)
    assert not any(isinstance(request, PairRequest) for request in seen)


# What is kept


@pytest.mark.parametrize("connector_id", ["ab" * 32, "../../etc", ""])
def test_not_paired(state: Path, connector_id: str) -> None:
    with pytest.raises(NotPaired, match="dmctl appliance pair"):
        load_pairing(state, NodeId(connector_id))


def test_damaged(connector: ConnectorKit, identity: Identity, state: Path) -> None:
    pairing = pair(connector.token(), identity, SITE, state)
    (pairing.certificate_path.parent / "pairing.json").write_text("{}")
    with pytest.raises(FileBroken, match="pair again"):
        load_pairing(state, pairing.connector)
