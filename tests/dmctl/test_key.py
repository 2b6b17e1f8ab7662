import json
from pathlib import Path

from dmcore.errors import ExitCode
from dmcore.keys import local
from tests.dmctl.conftest import Dmctl


def test_a_key_is_made_once(dmctl: Dmctl, tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    made = dmctl("key", "create", path)
    assert made.exit_code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert f'fingerprint = "{local.fingerprint(path)}"' in made.stdout
    before = path.read_bytes()
    again = dmctl("key", "create", path)
    assert again.exit_code == ExitCode.CONFIGURATION
    assert f"{path} exists already" in again.stderr
    assert path.read_bytes() == before


def test_only_the_fingerprint_is_shown(dmctl: Dmctl, tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    made = json.loads(dmctl("key", "create", path, "--json").stdout)
    shown = dmctl("key", "fingerprint", path)
    assert shown.stdout == f"{made['fingerprint']}\n"
    assert json.loads(dmctl("key", "fingerprint", path, "--json").stdout) == made
    assert path.read_text().strip() not in shown.output


def test_a_key_that_others_can_read(dmctl: Dmctl, tmp_path: Path) -> None:
    path = tmp_path / "kek.key"
    dmctl("key", "create", path)
    path.chmod(0o644)
    result = dmctl("key", "fingerprint", path)
    assert result.exit_code == ExitCode.CONFIGURATION
    assert "chmod 600" in result.stderr


def test_a_path_that_is_not_there(dmctl: Dmctl, tmp_path: Path) -> None:
    for command in ("create", "fingerprint"):
        result = dmctl("key", command, tmp_path / "none" / "kek.key")
        assert result.exit_code == ExitCode.CONFIGURATION
        assert str(tmp_path / "none" / "kek.key") in result.stderr
