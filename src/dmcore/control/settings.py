"""The control plane's TOML file. docs/configuration.md describes every key."""

from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError

from dmcore.host.address import Address, AddressText
from dmcore.host.settings import ConfiguredPath, LogSettings, MetricsSettings, Section, load_settings

DRIVERS = {"sqlite", "sqlite+pysqlite", "postgresql+psycopg"}


def _known_database(url: str) -> str:
    """What is wrong is said without the URL: there may be a password in it."""
    try:
        driver = make_url(url).drivername
    except (ArgumentError, ValueError):
        driver = None
    if driver not in DRIVERS:
        raise ValueError("not a URL of postgresql+psycopg://USER@HOST/NAME or sqlite:///PATH")
    return url


class TlsSettings(Section):
    """`[tls]`: a certificate of your own. Not set: one is made, and its fingerprint goes into every join token."""

    certificate: ConfiguredPath
    key: ConfiguredPath


class LeaseSettings(Section):
    """`[leases]`: how long a node may be silent, and how often it should speak."""

    lease_s: Annotated[float, Field(ge=3, le=3600)] = 60.0
    heartbeat_s: Annotated[float, Field(ge=0.5, le=600)] = 15.0
    tick_s: Annotated[float, Field(ge=0.1, le=60)] = 1.0


class ControlPlaneSettings(Section):
    """A control plane's file. `advertise` are the hosts that nodes and operators reach it by."""

    state_dir: ConfiguredPath
    listen: AddressText = Address("127.0.0.1", 8443)
    advertise: tuple[Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9.:-]{1,253}$")], ...] = ("127.0.0.1",)
    database: Annotated[str, AfterValidator(_known_database)] | None = None
    """A URL of SQLAlchemy's (postgresql+psycopg://...). Not set: SQLite in `state_dir`."""
    tls: TlsSettings | None = None
    leases: LeaseSettings = LeaseSettings()
    logging: LogSettings = LogSettings()
    metrics: MetricsSettings = MetricsSettings()

    @property
    def database_url(self) -> str:
        """Where the database is."""
        return self.database or f"sqlite:///{self.state_dir / 'control.db'}"


def load_control(path: Path) -> ControlPlaneSettings:
    """A control plane's configuration. Raises SettingsRefused."""
    return load_settings(path, ControlPlaneSettings)
