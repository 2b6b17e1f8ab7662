"""A node's configuration: one TOML file. Unknown keys are errors; relative paths are relative to the file."""

import tomllib
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    ValidationInfo,
)

from dmcore.api.jobs import Codec
from dmcore.api.labels import Alias, Site
from dmcore.node.address import AddressText
from dmcore.node.errors import SettingsRefused

MIB = 1 << 20


def _anchored(path: Path, info: ValidationInfo) -> Path:
    base: Path = (info.context or {}).get("base", Path())
    return base / path


def _power_of_two(number: int) -> int:
    if number & (number - 1):
        raise ValueError("not a power of two")
    return number


ConfiguredPath = Annotated[Path, AfterValidator(_anchored)]
Bytes = Annotated[int, Field(strict=True, ge=0)]
Count = Annotated[int, Field(strict=True, ge=1)]
BlockBytes = Annotated[int, Field(strict=True, ge=4096, le=4 * MIB), AfterValidator(_power_of_two)]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Host = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]{1,253}$")]


class Section(BaseModel):
    """Base of every table of the file."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class SourceKind(StrEnum):
    """What can be protected (docs/configuration.md)."""

    IMAGE = "image"
    TRACKED = "tracked"


class TargetKind(StrEnum):
    """What can keep shadows."""

    FOLDER = "folder"


class LogFormat(StrEnum):
    """For people, or for machines."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The least severe lines that are written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class LogSettings(Section):
    """`[logging]`: lines go to standard error."""

    format: LogFormat = LogFormat.CONSOLE
    level: LogLevel = LogLevel.INFO


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


class ControlSettings(Section):
    """`[control]`: the pinned public key that tickets must be signed with (PEM, Ed25519)."""

    ticket_key: ConfiguredPath


class ApplianceLimits(Section):
    """`[limits]` of an appliance. `buffer_bytes` bounds all batches in memory together."""

    parallel_disks: Count = 4
    buffer_bytes: Annotated[int, Field(strict=True, ge=16 * MIB)] = 96 * MIB


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
    control: ControlSettings
    staging: StagingSettings = StagingSettings()
    limits: ConnectorLimits = ConnectorLimits()

    @property
    def staging_dir(self) -> Path:
        """Where the staging logs are."""
        return self.staging.path or self.state_dir / "staging"


SomeSettings = TypeVar("SomeSettings", ApplianceSettings, ConnectorSettings)


def load_appliance(path: Path) -> ApplianceSettings:
    """An appliance's configuration.

    Raises:
        SettingsRefused: missing, not TOML, an unknown key, or a wrong value; the file and each key are named.
    """
    return _load(path, ApplianceSettings)


def load_connector(path: Path) -> ConnectorSettings:
    """A connector's configuration.

    Raises:
        SettingsRefused: missing, not TOML, an unknown key, or a wrong value; the file and each key are named.
    """
    return _load(path, ConnectorSettings)


def _load(path: Path, kind: type[SomeSettings]) -> SomeSettings:
    try:
        text = path.read_text(encoding="utf-8")
        return kind.model_validate(tomllib.loads(text), context={"base": path.absolute().parent})
    except OSError as problem:
        raise SettingsRefused(path=str(path), problem=problem.strerror or str(problem)) from problem
    except ValidationError as refused:
        problems = "; ".join(_problem(error["loc"], error["type"], error["msg"]) for error in refused.errors())
        raise SettingsRefused(path=str(path), problem=problems) from refused
    except ValueError as problem:  # not TOML, or not UTF-8
        raise SettingsRefused(path=str(path), problem=str(problem)) from problem


def _problem(location: tuple[int | str, ...], kind: str, message: str) -> str:
    key = ".".join(map(str, location))
    if kind == "extra_forbidden":
        return f"unknown key {key}"
    return f"{key}: {message[0].lower()}{message[1:]}"
