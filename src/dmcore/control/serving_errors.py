"""What a control plane refuses before or beside its routes: how much, how often, and where it cannot be served."""

from dataclasses import dataclass
from typing import ClassVar

from dmcore.errors import BusyError, ConfigurationError, DmcoreError, RefusedError


@dataclass(eq=False)
class RequestTooLarge(RefusedError):
    """A body that no message of this API needs."""

    code = "request.too-large"
    status: ClassVar[int] = 413
    template = "the body is longer than {limit_bytes} bytes"
    limit_bytes: int


@dataclass(eq=False)
class RequestSlow(BusyError):
    """A body that does not come: whoever sends it so is not waited for."""

    code = "request.slow"
    status: ClassVar[int] = 408
    template = "the body did not come within {limit_s} seconds"
    limit_s: float


@dataclass(eq=False)
class RequestFlood(BusyError):
    """A node signs more requests than one could need."""

    code = "request.flood"
    status: ClassVar[int] = 429
    template = "node {node} sends more than {count} requests in {seconds} seconds; it must slow down"
    node: str
    count: int
    seconds: int


@dataclass(eq=False)
class NotInitialised(ConfigurationError):
    """A state directory or database that no control plane has been made in."""

    code = "control.not-initialised"
    status: ClassVar[int] = 503
    template = "{place} holds no control plane yet; run `dmctl control init`"
    place: str


@dataclass(eq=False)
class AlreadyInitialised(RefusedError):
    """There is a control plane already: its tokens and keys stay as they are."""

    code = "control.initialised"
    status: ClassVar[int] = 409
    template = "{place} holds control plane {control} already; `dmctl control token` makes another admin token"
    place: str
    control: str


@dataclass(eq=False)
class CannotListen(ConfigurationError):
    """The address that the API should be served on cannot be had."""

    code = "control.listen"
    status: ClassVar[int] = 503
    template = "cannot serve on {address}: {problem}; stop what uses it, or change `listen`"
    address: str
    problem: str


@dataclass(eq=False)
class ServerStopped(ConfigurationError):
    """The HTTP server or the scheduler ended by itself."""

    code = "control.stopped"
    status: ClassVar[int] = 503
    permanent = False
    template = "the {part} ended by itself; its log says why"
    part: str


@dataclass(eq=False)
class RouteUnknown(RefusedError):
    """A path that this API does not have."""

    code = "route.unknown"
    status: ClassVar[int] = 404
    template = "this API has no such path"


@dataclass(eq=False)
class MethodRefused(RefusedError):
    """A path that this API has, for other methods."""

    code = "route.method"
    status: ClassVar[int] = 405
    template = "this API does not have this method here"


@dataclass(eq=False)
class RequestUnreadable(RefusedError):
    """A body that could not even be taken apart."""

    code = "request.unreadable"
    status: ClassVar[int] = 400
    template = "the body cannot be read"


@dataclass(eq=False)
class ControlFault(DmcoreError):
    """Something in the control plane that nobody foresaw. What it was is in its log only."""

    code = "control.fault"
    status: ClassVar[int] = 500
    template = "a fault of the control plane; its log tells more under the correlation id"


@dataclass(eq=False)
class DriverMissing(ConfigurationError):
    """The settings name a PostgreSQL database, and nothing here can talk to one."""

    code = "store.driver"
    status: ClassVar[int] = 503
    template = (
        "`database` names a PostgreSQL database, whose driver cannot be used here ({problem}); install dmcore with its"
        " extra `postgresql`: pip install 'dmcore[postgresql]'"
    )
    problem: str
