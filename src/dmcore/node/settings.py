"""What a node's TOML file may say. docs/configuration.md describes every key."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from dmcore.api.jobs import Codec
from dmcore.api.labels import Alias, Site
from dmcore.host.address import AddressText
from dmcore.host.settings import ConfiguredPath, LogSettings, MetricsSettings, Section, load_settings

MIB = 1 << 20


def _power_of_two(number: int) -> int:
    if number & (number - 1):
        raise ValueError("not a power of two")
    return number


Bytes = Annotated[int, Field(strict=True, ge=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
BlockBytes = Annotated[int, Field(strict=True, ge=4096, le=4 * MIB), AfterValidator(_power_of_two)]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]


class SourceKind(StrEnum):
    """What can be protected (docs/configuration.md)."""

    IMAGE = "image"
    TRACKED = "tracked"


class TargetKind(StrEnum):
    """What can keep shadows."""

    FOLDER = "folder"


class KekSettings(Section):
    """`[kek]`: the key file, and the fingerprint of the only key that this node accepts."""

    file: ConfiguredPath
    fingerprint: Fingerprint


class SourceSettings(Section):
    """`[sources.ALIAS]`."""

    kind: SourceKind
    path: ConfiguredPath


class TargetSettings(Section):
    """`[targets.ALIAS]`."""

    kind: TargetKind
    path: ConfiguredPath


class StagingSettings(Section):
    """`[staging]`: where sealed blocks wait. Without a quota only the reserve bounds it."""

    path: ConfiguredPath | None = None
    quota_bytes: Annotated[int, Field(strict=True, ge=MIB)] | None = None
    reserve_bytes: Bytes = 256 * MIB
    wait_s: Annotated[int, Field(strict=True, ge=1, le=43_200)] = 3600
    """How long a batch may wait for room; at most half of what a source snapshot may live without an answer."""


class RecoverySettings(Section):
    """`[recoveries.ALIAS]`: a folder that points may be recovered into on the control plane's word."""

    path: ConfiguredPath


class ControlSettings(Section):
    """`[control]`: the pinned public key that tickets must be signed with (PEM, Ed25519).

    Not set: the key that was pinned when this connector was enrolled.
    """

    ticket_key: ConfiguredPath | None = None


class RetentionSettings(Section):
    """`[retention]`: which points are kept whatever anybody asks."""

    keep_newest: Count = 3
    keep_s: Annotated[int, Field(strict=True, ge=86_400)] = 86_400


class ApplianceLimits(Section):
    """`[limits]` of an appliance. `buffer_bytes` bounds all batches in memory together.

    `snapshot_max_age_s` is the age watchdog: a source snapshot that nobody runs on is removed then, whatever else.
    """

    parallel_cycles: Count = 4
    parallel_disks: Count = 4
    buffer_bytes: Annotated[int, Field(strict=True, ge=16 * MIB)] = 96 * MIB
    snapshot_max_age_s: Annotated[int, Field(strict=True, ge=3600)] = 86_400


class ConnectorLimits(Section):
    """`[limits]` of a connector. `receive_budget_bytes` bounds all credit that is out together."""

    receive_budget_bytes: Annotated[int, Field(strict=True, ge=16 * MIB)] = 96 * MIB
    max_connections: Count = 128
    handshake_timeout_s: Annotated[float, Field(gt=0, le=300)] = 10.0


class NodeSettings(Section):
    """What both kinds of node are told."""

    site: Site
    state_dir: ConfiguredPath
    kek: KekSettings
    allowed_roots: tuple[ConfiguredPath, ...]
    logging: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()


class ApplianceSettings(NodeSettings):
    """An appliance's file."""

    sources: dict[Alias, SourceSettings]
    codec: Codec = Codec.LZ4
    block_bytes: BlockBytes = 64 << 10
    limits: ApplianceLimits = ApplianceLimits()


class ConnectorSettings(NodeSettings):
    """A connector's file. `advertise` is the host that appliances reach it by."""

    listen: AddressText
    pairing_listen: AddressText
    advertise: Host
    targets: dict[Alias, TargetSettings]
    recoveries: dict[Alias, RecoverySettings] = Field(default_factory=dict)
    control: ControlSettings = ControlSettings()
    retention: RetentionSettings = RetentionSettings()
    staging: StagingSettings = StagingSettings()
    limits: ConnectorLimits = ConnectorLimits()

    @property
    def staging_dir(self) -> Path:
        """Where the staging logs are."""
        return self.staging.path or self.state_dir / "staging"


def load_appliance(path: Path) -> ApplianceSettings:
    """An appliance's configuration.

    Raises:
        SettingsRefused: missing, not TOML, an unknown key, or a wrong value; the file and each key are named.
    """
    return load_settings(path, ApplianceSettings)


def load_connector(path: Path) -> ConnectorSettings:
    """A connector's configuration.

    Raises:
        SettingsRefused: missing, not TOML, an unknown key, or a wrong value; the file and each key are named.
    """
    return load_settings(path, ConnectorSettings)
