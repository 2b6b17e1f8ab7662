from collections.abc import Callable
from pathlib import Path

import pytest

from dmcore.connector.pairing import PairingDesk
from dmcore.connector.trust_errors import VersionRefused
from dmcore.model.names import node_id_of
from dmcore.node.identity import public_der
from dmcore.node.pairing_errors import MessageMalformed
from dmcore.node.pairing_token import AuthorityAnswer, AuthorityRequest, Message, PairAnswer, PairRequest, Refusal
from tests.trust_kit import DATA_ADDRESS, SITE, ConnectorKit, csr_of, make_connector, new_key


@pytest.fixture
def connector(tmp_path: Path) -> ConnectorKit:
    kit = make_connector(tmp_path)
    kit.server.stop()
    return kit


@pytest.fixture
def desk(connector: ConnectorKit) -> PairingDesk:
    return PairingDesk(
        connector.authority,
        connector.identity.node,
        DATA_ADDRESS,
        connector.tokens,
        connector.paired,
        connector.clock,
    )


def ask(desk: PairingDesk, request: Message) -> Message:
    return desk.answer(request.model_dump_json().encode())


def test_authority(desk: PairingDesk, connector: ConnectorKit) -> None:
    assert ask(desk, AuthorityRequest()) == AuthorityAnswer(authority=connector.authority.pem)


def test_pairs(desk: PairingDesk, connector: ConnectorKit) -> None:
    key = new_key()
    answer = ask(desk, PairRequest(secret=connector.tokens.make(SITE), csr=csr_of(key), versions=(1, 2)))
    assert isinstance(answer, PairAnswer)
    assert (answer.connector, answer.address) == (connector.identity.node, DATA_ADDRESS)
    (paired,) = connector.paired.all()
    assert (paired.node, paired.site, paired.since) == (node_id_of(public_der(key)), SITE, connector.clock())


@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda r: r.model_copy(update={"versions": (2,)}), VersionRefused.code),
        (lambda r: r.model_copy(update={"csr": "nonsense"}), "pairing.csr"),
    ],
    ids=["version", "csr"],
)
def test_a_bad_request_does_not_use_the_token_up(
    desk: PairingDesk, connector: ConnectorKit, change: Callable[[PairRequest], PairRequest], code: str
) -> None:
    good = PairRequest(secret=connector.tokens.make(SITE), csr=csr_of(new_key()))
    assert ask(desk, change(good)) == Refusal(refused=code)
    assert isinstance(ask(desk, good), PairAnswer)


@pytest.mark.parametrize(
    "data", [b"", b"{}", b'{"ask":"root"}', b'{"ask":"pair"}', b'{"ask":"authority","x":1}', b"\xff", b"[" * 60000]
)
def test_what_is_no_request(desk: PairingDesk, data: bytes) -> None:
    assert desk.answer(data) == Refusal(refused=MessageMalformed.code)
