import hashlib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from dmcore.keys.errors import KekExists, KekExposed, KekNotPinned, KekUnreadable
from dmcore.keys.local import LocalKek, create, fingerprint
from dmcore.keys.provider import Purpose
from tests.keys.contract import KEY, PLAN, KeyProviderContract


class TestLocalKek(KeyProviderContract):
    @pytest.fixture
    def provider(self, tmp_path: Path) -> LocalKek:
        return LocalKek(tmp_path / "kek", create(tmp_path / "kek"))

    @pytest.fixture
    def stranger(self, tmp_path: Path) -> LocalKek:
        return LocalKek(tmp_path / "other", create(tmp_path / "other"))


def test_created_for_its_owner_only_and_nothing_left_behind(tmp_path: Path) -> None:
    pinned = create(tmp_path / "kek")
    assert (tmp_path / "kek").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "kek").stat().st_size == 65
    assert fingerprint(tmp_path / "kek") == pinned
    assert [path.name for path in tmp_path.iterdir()] == ["kek"]


def test_wrapping_is_what_is_documented(tmp_path: Path) -> None:
    (tmp_path / "kek").write_text("07" * 32 + "\n")
    (tmp_path / "kek").chmod(0o600)
    kek, label = bytes([7]) * 32, b"dmcore/1 kek-fingerprint"
    pinned = hashlib.sha256(label + kek).hexdigest()
    wrapped = LocalKek(tmp_path / "kek", pinned).wrap(Purpose.DIGEST_ROOT, PLAN, 258, KEY)
    key = HKDF(algorithm=SHA256(), length=32, salt=wrapped[:32], info=b"dmcore/1 wrap").derive(kek)
    bound = b"\x0bdigest-root" + PLAN.bytes + b"\0\0\x01\x02" + bytes.fromhex(pinned)
    assert AESGCM(key).decrypt(bytes(12), wrapped[32:], bound) == KEY


def test_never_overwritten(tmp_path: Path) -> None:
    pinned = create(tmp_path / "kek")
    with pytest.raises(KekExists, match="kek"):
        create(tmp_path / "kek")
    assert fingerprint(tmp_path / "kek") == pinned
    assert len(list(tmp_path.iterdir())) == 1


def test_no_directory_to_make_it_in(tmp_path: Path) -> None:
    with pytest.raises(KekUnreadable, match="No such file"):
        create(tmp_path / "absent" / "kek")


def test_not_the_pinned_one(tmp_path: Path) -> None:
    found, pinned = create(tmp_path / "kek"), create(tmp_path / "other")
    with pytest.raises(KekNotPinned, match=f"{found}.*{pinned}") as refused:
        LocalKek(tmp_path / "kek", pinned)
    assert refused.value.code == "key.not-pinned"


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o620, 0o601])
def test_others_could_read_it(tmp_path: Path, mode: int) -> None:
    pinned = create(tmp_path / "kek")
    (tmp_path / "kek").chmod(mode)
    with pytest.raises(KekExposed, match=f"{mode:04o}.*chmod 600") as refused:
        LocalKek(tmp_path / "kek", pinned)
    assert refused.value.code == "key.mode"


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(KekUnreadable, match="No such file"):
        fingerprint(tmp_path / "kek")


@pytest.mark.parametrize("text", ["", "07" * 32, "07" * 31 + "\n", "0A" * 32 + "\n", "07" * 32 + "\n\n", "z" * 65])
def test_not_a_key(tmp_path: Path, text: str) -> None:
    (tmp_path / "kek").write_text(text)
    (tmp_path / "kek").chmod(0o600)
    with pytest.raises(KekUnreadable, match="64 lower-case hex"):
        fingerprint(tmp_path / "kek")
