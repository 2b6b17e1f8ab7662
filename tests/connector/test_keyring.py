import threading
from pathlib import Path
from uuid import uuid4

import pytest

from dmcore.connector import keyring as keyring_module
from dmcore.connector.keyring import PlanKeyring
from dmcore.host.errors import FileBroken
from dmcore.keys.errors import WrongKek
from dmcore.keys.local import LocalKek, create
from dmcore.keys.provider import WrappedKeys, mint, unwrap_all
from dmcore.model.ids import PlanId
from dmcore.node.settings import KekSettings
from tests.connector.appliance import Attempt
from tests.connector.kit import Disk, refusal
from tests.connector.rig import Rig

PLAN = PlanId(uuid4())


@pytest.fixture
def kek(tmp_path: Path) -> LocalKek:
    return LocalKek(tmp_path / "kek", create(tmp_path / "kek"))


@pytest.fixture
def keyring(tmp_path: Path, kek: LocalKek) -> PlanKeyring:
    return PlanKeyring(tmp_path / "keys", kek)


def version_file(tmp_path: Path, version: int = 1) -> Path:
    return tmp_path / "keys" / str(PLAN) / f"{version}.json"


def add_version(tmp_path: Path, kek: LocalKek, version: int, first: WrappedKeys) -> WrappedKeys:
    wrapped = mint(kek, PLAN, version, unwrap_all(kek, first).digest_root)
    version_file(tmp_path, version).write_text(wrapped.model_dump_json())
    return wrapped


def test_kept_before_it_is_given(
    tmp_path: Path, keyring: PlanKeyring, kek: LocalKek, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(keyring_module, "create_file", full)
        with pytest.raises(OSError, match="No space"):
            keyring.current(PLAN)
    given = keyring.current(PLAN)
    assert version_file(tmp_path).stat().st_mode & 0o777 == 0o600
    assert PlanKeyring(tmp_path / "keys", kek).current(PLAN) == given == keyring.current(PLAN)


def test_only_wrapped_on_disk(tmp_path: Path, keyring: PlanKeyring) -> None:
    keyring.current(PLAN)
    clear = keyring.lookup(PLAN)(1)
    text = version_file(tmp_path).read_bytes()
    for key in clear:
        assert key not in text
        assert key.hex().encode() not in text


def test_who_races_for_the_first_gets_the_same(keyring: PlanKeyring) -> None:
    given: list[WrappedKeys] = []
    threads = [threading.Thread(target=lambda: given.append(keyring.current(PLAN))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(given) == 8
    assert set(map(WrappedKeys.model_dump_json, given)) == {given[0].model_dump_json()}


def test_the_newest_version_counts_by_number(tmp_path: Path, keyring: PlanKeyring, kek: LocalKek) -> None:
    first = keyring.current(PLAN)
    add_version(tmp_path, kek, 2, first)
    tenth = add_version(tmp_path, kek, 10, first)
    version_file(tmp_path).with_name("1-copy.json").write_text("an operator's")
    assert keyring.current(PLAN) == tenth
    assert keyring.wrapped(PLAN, 1) == first
    lookup = keyring.lookup(PLAN)
    assert lookup(10).digest_root == lookup(1).digest_root
    assert lookup(10).dek != lookup(1).dek


def test_another_kek_is_refused_before_anything_is_decrypted(
    tmp_path: Path, keyring: PlanKeyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    keyring.current(PLAN)
    other = LocalKek(tmp_path / "other", create(tmp_path / "other"))

    def decrypts(*_: object) -> bytes:
        raise AssertionError("decrypted")

    monkeypatch.setattr(LocalKek, "unwrap", decrypts)
    with pytest.raises(WrongKek, match=other.kek_fingerprint) as refused:
        PlanKeyring(tmp_path / "keys", other).lookup(PLAN)(1)
    assert refused.value.code == "key.wrong-kek"


@pytest.mark.parametrize("text", [None, "", "{}", "\xff"])
def test_a_missing_or_damaged_file_is_named(tmp_path: Path, keyring: PlanKeyring, text: str | None) -> None:
    keyring.current(PLAN)
    path = version_file(tmp_path)
    path.unlink()
    if text is not None:
        path.write_bytes(text.encode("latin-1"))
    for ask in (keyring.wrapped, lambda plan, version: keyring.lookup(plan)(version)):
        with pytest.raises(FileBroken, match=str(path)) as broken:
            ask(PLAN, 1)
        assert broken.value.code == "file.broken"


def test_a_version_that_is_gone_is_never_minted_anew(tmp_path: Path, keyring: PlanKeyring) -> None:
    keyring.current(PLAN)
    version_file(tmp_path).write_text("")
    with pytest.raises(FileBroken):
        keyring.current(PLAN)


def test_a_connector_with_another_kek_takes_no_stream(rig: Rig, attempt: Attempt, disk: Disk, tmp_path: Path) -> None:
    pinned = create(tmp_path / "other.key")
    rig.changes["kek"] = KekSettings(file=tmp_path / "other.key", fingerprint=pinned)
    rig.restart()
    refused = refusal(attempt.open(disk).start)
    assert refused.code == "key.wrong-kek"
    assert pinned in str(refused)
    assert attempt.open(disk).durable == set()
