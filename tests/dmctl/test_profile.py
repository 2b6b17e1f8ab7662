import stat
from pathlib import Path

import pytest

from dmcore.host.errors import FileBroken, FileExposed
from dmctl.errors import NotLoggedIn
from dmctl.profile import Profile, forget_profile, load_profile, profile_path, save_profile

PROFILE = Profile(url="https://control.example", token="dmo_secret", fingerprint="ab" * 32)


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    named = tmp_path / "deep" / "down" / "login.json"
    monkeypatch.setenv("DMCTL_PROFILE", str(named))
    return named


def test_it_is_read_as_it_was_saved_and_only_its_owner_can(path: Path) -> None:
    assert save_profile(PROFILE) == path
    assert load_profile() == PROFILE
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_later_login_replaces_it(path: Path) -> None:
    save_profile(PROFILE)
    save_profile(Profile(url="https://other.example", token="x", ca_file=Path("/ca.pem")))
    assert load_profile().url == "https://other.example"
    assert [each.name for each in path.parent.iterdir()] == ["login.json"]


def test_it_is_forgotten_once(path: Path) -> None:
    save_profile(PROFILE)
    assert forget_profile() == path
    with pytest.raises(NotLoggedIn, match="`dmctl login URL` first"):
        forget_profile()
    with pytest.raises(NotLoggedIn, match=str(path)):
        load_profile()


def test_one_that_others_can_read_is_refused(path: Path) -> None:
    save_profile(PROFILE)
    path.chmod(0o640)
    with pytest.raises(FileExposed, match="mode 0640"):
        load_profile()


@pytest.mark.parametrize("text", ["", "{", '{"url": "https://x"}', '{"url": "x", "token": "dmo_secret", "more": 1}'])
def test_one_that_is_broken_is_refused_without_telling_the_token(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(FileBroken, match="run `dmctl login` again") as refused:
        load_profile()
    assert "dmo_secret" not in str(refused.value)


def test_where_it_is_without_the_variable(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("DMCTL_PROFILE")
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("", "relative"):  # which the specification says to ignore
        monkeypatch.setenv("XDG_CONFIG_HOME", folder)
        assert profile_path() == tmp_path / ".config" / "dmcore" / "login.json"
    monkeypatch.setenv("XDG_CONFIG_HOME", "/etc/xdg")
    assert profile_path() == Path("/etc/xdg/dmcore/login.json")


def test_the_token_is_in_no_repr() -> None:
    assert "dmo_secret" not in repr(PROFILE)
