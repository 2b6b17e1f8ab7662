import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from dmcore.api.signing import RequestClaims
from dmcore.control.access import signatures
from dmcore.control.access.signatures import REMEMBERED_S, SignatureBook, load_public_key
from dmcore.control.errors import SignatureRefused
from dmcore.control.serving_errors import RequestFlood
from tests.control.web_kit import CONTROL, HandClock


def claims(number: int, node: str = "a" * 64) -> RequestClaims:
    return RequestClaims(
        iss=node, aud=CONTROL, iat=1, exp=2, jti=f"{number:032x}", htm="GET", htu="/", bod="0" * 64
    )  # fmt: skip


def test_a_signature_is_remembered_as_long_as_it_is_good() -> None:
    book, clock = SignatureBook(), HandClock()
    book.use(claims(1), clock.now)
    clock.forward(REMEMBERED_S)
    with pytest.raises(SignatureRefused):
        book.use(claims(1), clock.now)
    clock.forward(1)
    book.use(claims(1), clock.now)


def test_a_node_that_floods_holds_up_itself_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "MAX_REMEMBERED", 3)
    book, clock = SignatureBook(), HandClock()
    for number in range(3):
        book.use(claims(number), clock.now)
    with pytest.raises(RequestFlood) as flood:
        book.use(claims(3), clock.now)
    assert (flood.value.status, flood.value.permanent) == (429, False)
    book.use(claims(1, "b" * 64), clock.now)
    clock.forward(REMEMBERED_S + 1)
    book.use(claims(3), clock.now)


@pytest.mark.parametrize("der", [b"", b"x" * 91, bytes(91)])
def test_what_is_no_key_is_refused(der: bytes) -> None:
    with pytest.raises(SignatureRefused, match="cannot be read"):
        load_public_key(der)


@pytest.mark.parametrize("key", [Ed25519PrivateKey.generate(), generate_private_key(SECP384R1())], ids=["ed", "384"])
def test_a_key_of_another_kind_is_refused(key: Ed25519PrivateKey | EllipticCurvePrivateKey) -> None:
    der = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    with pytest.raises(SignatureRefused, match="not a P-256 key"):
        load_public_key(der)
