import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dmcore.connector.pairing_tokens import TokenStore
from dmcore.errors import DmcoreError
from dmcore.host.errors import FileBroken
from dmcore.node.pairing_errors import TokenExpired, TokenUnknown, TokenUsed
from tests.trust_kit import SITE, FakeClock


def test_one_use_even_after_a_restart(tmp_path: Path) -> None:
    store = TokenStore(tmp_path, FakeClock())
    secret = store.make(SITE)
    assert store.use(secret) == SITE
    for again in (store, TokenStore(tmp_path, FakeClock())):
        with pytest.raises(TokenUsed, match="pair-token"):
            again.use(secret)


def test_kept_as_a_hash_only(tmp_path: Path) -> None:
    secret = TokenStore(tmp_path, FakeClock()).make(SITE)
    (path,) = (tmp_path / "pairing-tokens").glob("*.json")
    assert secret not in path.name + path.read_text()
    assert set(json.loads(path.read_text())) == {"site", "expires"}
    assert path.stat().st_mode & 0o777 == 0o600
    assert len(secret) >= 43


def test_damaged(tmp_path: Path) -> None:
    store = TokenStore(tmp_path, FakeClock())
    secret = store.make(SITE)
    (path,) = (tmp_path / "pairing-tokens").glob("*.json")
    path.write_text("{}")
    with pytest.raises(FileBroken, match=path.name):
        store.use(secret)


def test_one_hour(tmp_path: Path) -> None:
    clock = FakeClock()
    store = TokenStore(tmp_path, clock)
    first, second = store.make(SITE), store.make(SITE)
    clock.advance(minutes=59, seconds=59)
    assert store.use(first) == SITE
    clock.advance(seconds=1)
    for _ in range(2):
        with pytest.raises(TokenExpired):
            store.use(second)


@pytest.mark.parametrize("secret", ["x" * 43, "../../etc/passwd", ""])
def test_not_made_here(tmp_path: Path, secret: str) -> None:
    with pytest.raises(TokenUnknown):
        TokenStore(tmp_path, FakeClock()).use(secret)


def test_of_many_that_race_one_wins(tmp_path: Path) -> None:
    secret = TokenStore(tmp_path, FakeClock()).make(SITE)

    def use(_: int) -> str:
        try:
            return TokenStore(tmp_path, FakeClock()).use(secret)
        except DmcoreError as refused:
            return refused.code

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(use, range(16)))
    assert outcomes.count(SITE) == 1
    assert outcomes.count(TokenUsed.code) == 15
