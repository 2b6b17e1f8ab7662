import base64

import pytest

from dmcore.host.address import Address
from dmcore.model.ids import NodeId
from dmcore.node.pairing_errors import TokenMalformed
from dmcore.node.pairing_token import PairingToken

TOKEN = PairingToken(
    connector=NodeId("ab" * 32),
    authority_sha256="cd" * 32,
    addresses=(Address("dr.example", 7444), Address("::1", 7444)),
    site="paris",
    secret="s" * 43,
)


def test_there_and_back() -> None:
    text = TOKEN.encode()
    assert text.startswith("dmpair1.")
    assert text.isascii()
    assert len(text.split()) == 1
    assert PairingToken.decode(f" {text}\n") == TOKEN
    assert TOKEN.secret not in repr(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "dmpair1.",
        "dmpair2." + TOKEN.encode()[8:],
        TOKEN.encode()[8:],
        TOKEN.encode()[:-5],
        TOKEN.encode() + "AAAA",
        TOKEN.encode()[:40] + "*" + TOKEN.encode()[41:],
        TOKEN.encode() + "é",
        "dmpair1." + base64.urlsafe_b64encode(b"{}").decode(),
        "dmpair1." + "A" * 5000,
    ],
    ids=range(10),
)
def test_not_a_token(text: str) -> None:
    with pytest.raises(TokenMalformed, match="dmpair1") as refused:
        PairingToken.decode(text)
    assert refused.value.code == "pairing.token-malformed"
