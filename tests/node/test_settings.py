from pathlib import Path

import pytest

from dmcore.api.jobs import Codec
from dmcore.blocks.constants import DEFAULT_BLOCK_BYTES, MAX_BLOCK_BYTES, MIN_BLOCK_BYTES
from dmcore.host.address import Address
from dmcore.host.errors import SettingsRefused
from dmcore.host.settings import LogLevel
from dmcore.node.settings import ApplianceSettings, SourceKind, load_appliance, load_connector

FINGERPRINT = "0a" * 32
APPLIANCE = f"""
site = "paris"
state_dir = "state"
allowed_roots = ["/srv/disks", "disks"]
[kek]
file = "kek"
fingerprint = "{FINGERPRINT}"
[sources.main]
kind = "image"
path = "disks/main"
"""
CONNECTOR = f"""
site = "london"
state_dir = "/var/lib/dmcore"
allowed_roots = ["/srv"]
listen = "0.0.0.0:7443"
pairing_listen = "[::1]:0"
advertise = "dr.example"
[kek]
file = "/etc/dmcore/kek"
fingerprint = "{FINGERPRINT}"
[targets.shadows]
kind = "folder"
path = "/srv/shadows"
[control]
ticket_key = "tickets.pem"
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(text)
    return path


def test_appliance(tmp_path: Path) -> None:
    settings = load_appliance(written(tmp_path, APPLIANCE))
    assert settings.site == "paris"
    assert settings.state_dir == tmp_path / "state"
    assert settings.allowed_roots == (Path("/srv/disks"), tmp_path / "disks")
    assert settings.kek.file == tmp_path / "kek"
    assert settings.sources["main"].kind is SourceKind.IMAGE
    assert settings.sources["main"].path == tmp_path / "disks/main"
    assert settings.codec is Codec.LZ4
    assert settings.block_bytes == DEFAULT_BLOCK_BYTES
    assert (settings.limits.parallel_disks, settings.limits.buffer_bytes) == (4, 96 << 20)
    assert settings.logging.level is LogLevel.INFO


def test_connector(tmp_path: Path) -> None:
    settings = load_connector(written(tmp_path, CONNECTOR))
    assert settings.listen == Address("0.0.0.0", 7443)
    assert settings.pairing_listen == Address("::1", 0)
    assert settings.targets["shadows"].path == Path("/srv/shadows")
    assert settings.control.ticket_key == tmp_path / "tickets.pem"
    assert settings.staging_dir == Path("/var/lib/dmcore/staging")
    staging = settings.staging
    assert (staging.quota_bytes, staging.reserve_bytes, staging.wait_s) == (None, 256 << 20, 3600)
    limits = settings.limits
    assert (limits.receive_budget_bytes, limits.max_connections, limits.handshake_timeout_s) == (96 << 20, 128, 10)


def test_staging_elsewhere(tmp_path: Path) -> None:
    text = CONNECTOR + '[staging]\npath = "fast"\nquota_bytes = 1073741824\n'
    settings = load_connector(written(tmp_path, text))
    assert settings.staging_dir == tmp_path / "fast"
    assert settings.staging.quota_bytes == 1 << 30


def test_relative_to_the_file_not_to_where_the_process_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path, APPLIANCE)
    monkeypatch.chdir(tmp_path)
    assert load_appliance(Path("node.toml")).state_dir == tmp_path / "state"


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("[limits]\nparalel_disks = 2", "limits.paralel_disks"),
        ("[logging]\ncolour = true", "logging.colour"),
        ("[sources.b]\nkind = 'image'\npath = '/srv'\nsize = 1", "sources.b.size"),
        ("[surprise]", "surprise"),
    ],
)
def test_unknown_key(tmp_path: Path, line: str, key: str) -> None:
    path = written(tmp_path, APPLIANCE + line)
    with pytest.raises(SettingsRefused, match=f"unknown key {key}$") as refused:
        load_appliance(path)
    assert str(path) in str(refused.value)
    assert refused.value.code == "settings.invalid"


@pytest.mark.parametrize(
    ("old", "new", "key"),
    [
        ('site = "paris"', 'site = "Paris"', "site"),
        ('site = "paris"', "", "site: field required"),
        ('kind = "image"', 'kind = "magic"', "sources.main.kind"),
        ("sources.main", "sources.'../main'", "sources"),
        (FINGERPRINT, "0a", "kek.fingerprint"),
        ('state_dir = "state"', "state_dir = 7", "state_dir"),
        ("[kek]", "block_bytes = 2048\n[kek]", "block_bytes"),
        ("[kek]", "block_bytes = 8388608\n[kek]", "block_bytes"),
        ("[kek]", "block_bytes = 65537\n[kek]", "block_bytes: value error, not a power of two"),
        ("[kek]", "block_bytes = '64K'\n[kek]", "block_bytes"),
        ("[kek]", "codec = 'gzip'\n[kek]", "codec"),
        ("[kek]", "limits.parallel_disks = 0\n[kek]", "limits.parallel_disks"),
    ],
)
def test_wrong_value(tmp_path: Path, old: str, new: str, key: str) -> None:
    assert old in APPLIANCE
    with pytest.raises(SettingsRefused, match=key):
        load_appliance(written(tmp_path, APPLIANCE.replace(old, new)))


def test_wrong_address(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match=r"listen: .*host:port"):
        load_connector(written(tmp_path, CONNECTOR.replace("0.0.0.0:7443", "0.0.0.0")))


def test_not_toml(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="line 1"):
        load_appliance(written(tmp_path, "site: paris"))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(SettingsRefused, match="No such file"):
        load_connector(tmp_path / "absent.toml")


@pytest.mark.parametrize("block_bytes", [MIN_BLOCK_BYTES, MAX_BLOCK_BYTES])
def test_blocks_are_as_large_as_the_grid_allows(tmp_path: Path, block_bytes: int) -> None:
    path = written(tmp_path, APPLIANCE.replace("[kek]", f"block_bytes = {block_bytes}\n[kek]"))
    settings: ApplianceSettings = load_appliance(path)
    assert settings.block_bytes == block_bytes
