"""One control plane as its routes, its scheduler and `dmctl control` see it."""

from dataclasses import dataclass, field
from datetime import datetime
from types import TracebackType
from typing import Self
from uuid import UUID, uuid4

from sqlalchemy import Connection, insert, inspect, select

from dmcore.api.operators import NewToken, OperatorRole, TokenSpec
from dmcore.control.access import operators
from dmcore.control.access.enrolment import Invitation
from dmcore.control.access.refusals import Refusals
from dmcore.control.access.signatures import KeyRing, SignatureBook
from dmcore.control.certificates import ServerCertificate, open_certificate
from dmcore.control.errors import StoreOutdated
from dmcore.control.queue.tickets import TicketDesk
from dmcore.control.serving_errors import AlreadyInitialised, NotInitialised
from dmcore.control.settings import ControlPlaneSettings
from dmcore.control.store.database import Database
from dmcore.control.store.tables import meta
from dmcore.control.store.upgrade import EMPTY, require_current, upgrade
from dmcore.control.web.waiters import Waiters
from dmcore.host.clock import Clock, utc_now
from dmcore.host.lock import StateLock

CONTROL_KEY = "control"
"""The row of `meta` with this control plane's id: it is the database's, so a restored one keeps it."""
FIRST_TOKEN = "first"  # noqa: S105 - a name
FIRST_TOKEN_DAYS = 365


@dataclass
class Plane:
    """Everything that lasts as long as the process. Thread-safe; its owner closes it."""

    settings: ControlPlaneSettings
    database: Database
    tickets: TicketDesk
    certificate: ServerCertificate
    control: UUID
    clock: Clock = utc_now
    """For signatures and the Date header. Leases and tokens go by the database's."""
    port: int = 0
    """Where it is really served."""
    waiters: Waiters = field(default_factory=Waiters)
    signatures: SignatureBook = field(default_factory=SignatureBook)
    keys: KeyRing = field(default_factory=KeyRing)
    refusals: Refusals = field(default_factory=Refusals)
    skews: dict[str, datetime] = field(default_factory=dict)
    """When each node was last said to have a clock that is off."""

    @classmethod
    def open(cls, settings: ControlPlaneSettings, clock: Clock = utc_now) -> Self:
        """A control plane that `initialise` has made.

        Raises:
            NotInitialised, StoreOutdated, StoreNewer, StoreBusy: the database.
            FileBroken, FileExposed: the keys in its state directory, or its certificate.
        """
        database = Database(settings.database_url)
        try:
            control = _opened(settings, database)
            desk, certificate = TicketDesk.load(settings.state_dir), open_certificate(settings, clock)
        except BaseException:
            database.close()
            raise
        return cls(settings, database, desk, certificate, control, clock, settings.listen.port)

    @property
    def invitation(self) -> Invitation:
        """What join tokens tell of this control plane."""
        tls = self.certificate.fingerprint if self.certificate.pinned else None
        return Invitation(self.urls, self.control, tls, self.tickets.fingerprint)

    @property
    def urls(self) -> tuple[str, ...]:
        """Where nodes and operators reach it."""
        hosts = (f"[{host}]" if ":" in host else host for host in self.settings.advertise)
        return tuple(f"https://{host}:{self.port}" for host in hosts)

    def close(self) -> None:
        """End every long poll, and close the database. Idempotent."""
        self.waiters.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def initialise(settings: ControlPlaneSettings, clock: Clock = utc_now) -> NewToken:
    """Make a control plane: keys, tables, its id, and the first admin token, which nobody gets to see again.

    Raises:
        AlreadyInitialised: there is one; nothing is changed.
        StoreNewer, StoreBusy, StoreFull, FileBroken, FileExposed.
    """
    TicketDesk.load(settings.state_dir)
    open_certificate(settings, clock)
    database = Database(settings.database_url)
    try:
        with database.read() as connection:
            _require_none(connection, settings)
        upgrade(database)
        with database.write() as connection:
            _require_none(connection, settings)
            connection.execute(insert(meta).values(key=CONTROL_KEY, value=str(uuid4())))
            spec = TokenSpec(name=FIRST_TOKEN, role=OperatorRole.ADMIN, days=FIRST_TOKEN_DAYS)
            return operators.create(connection, database.now(connection), spec, operators.LOCAL)
    finally:
        database.close()


def upgrade_store(settings: ControlPlaneSettings) -> None:
    """Bring its tables to this version, with no control plane running. Repeating it changes nothing.

    Raises:
        NotInitialised: there is no database yet.
        NodeRunning: this state directory's control plane runs. StoreInUse: another replica does.
        StoreNewer, StoreBusy, StoreFull: nothing was changed.
    """
    _require_file(settings)
    with StateLock(settings.state_dir):
        database = Database(settings.database_url)
        try:
            upgrade(database)
        finally:
            database.close()


def control_id(connection: Connection) -> UUID | None:
    """The id of the control plane whose database this is; None: of none yet."""
    if not inspect(connection).has_table(meta.name):
        return None
    found = connection.execute(select(meta.c.value).where(meta.c.key == CONTROL_KEY)).scalar_one_or_none()
    return None if found is None else UUID(found)


def _require_none(connection: Connection, settings: ControlPlaneSettings) -> None:
    found = control_id(connection)
    if found is not None:
        raise AlreadyInitialised(place=str(settings.state_dir), control=str(found))


def _require_file(settings: ControlPlaneSettings) -> None:
    if settings.database is None and not (settings.state_dir / "control.db").exists():
        raise NotInitialised(place=str(settings.state_dir))  # and opening it would make an empty one


def _opened(settings: ControlPlaneSettings, database: Database) -> UUID:
    _require_file(settings)
    try:
        require_current(database)
    except StoreOutdated as outdated:
        if outdated.found == EMPTY:
            raise NotInitialised(place=str(settings.state_dir)) from outdated
        raise
    with database.read() as connection:
        found = control_id(connection)
    if found is None:
        raise NotInitialised(place=str(settings.state_dir))
    return found
