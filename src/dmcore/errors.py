"""The one error tree: what an operator sees, what a script can branch on, what may cross to a control plane.

Every error class has a stable `code`, an exit code (from its family), a message template over its typed attributes, and
says whether trying again can help (`permanent`). Classes that speak of offsets or paths live in the data plane's
packages (`native/errors.py`, `sources/errors.py`, ...), so that the control plane cannot import one.
"""

from dataclasses import dataclass, field, fields
from enum import IntEnum
from typing import ClassVar


class ExitCode(IntEnum):
    """What `dmctl` exits with. Documented in README.md; checked by a test."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    CONFIGURATION = 3
    TRUST = 4
    SOURCE = 5
    TARGET = 6
    INTEGRITY = 7
    CONNECTION = 8
    REFUSED = 9
    BUSY = 10
    INTERRUPTED = 130


@dataclass(eq=False)
class DmcoreError(Exception):
    """Base of the tree. A subclass is a dataclass whose fields fill its `template`."""

    code: ClassVar[str] = "internal"
    exit_code: ClassVar[ExitCode] = ExitCode.INTERNAL
    permanent: ClassVar[bool] = True
    template: ClassVar[str] = "internal error"

    correlation: str = field(default="", kw_only=True)
    """Id that the logs of every node carry for the same attempt; set where the error leaves a process."""

    def __str__(self) -> str:
        return self.template.format(**{f.name: getattr(self, f.name) for f in fields(self)})


@dataclass(eq=False)
class ConfigurationError(DmcoreError):
    """A node's own settings, aliases or files are wrong; only its operator can mend them."""

    exit_code = ExitCode.CONFIGURATION


@dataclass(eq=False)
class TrustError(DmcoreError):
    """A certificate, key, token or ticket is not what this node may accept."""

    exit_code = ExitCode.TRUST


@dataclass(eq=False)
class SourceError(DmcoreError):
    """The protected machine or disk could not be read as it should."""

    exit_code = ExitCode.SOURCE


@dataclass(eq=False)
class TargetError(DmcoreError):
    """The volume or folder that keeps the shadow failed."""

    exit_code = ExitCode.TARGET


@dataclass(eq=False)
class IntegrityError(DmcoreError):
    """Bytes are not what they were authenticated, logged or digested as."""

    exit_code = ExitCode.INTEGRITY


@dataclass(eq=False)
class ConnectionFailed(DmcoreError):
    """The peer went away or never answered. Another attempt may succeed."""

    exit_code = ExitCode.CONNECTION
    permanent = False


@dataclass(eq=False)
class RefusedError(DmcoreError):
    """The peer understood and said no."""

    exit_code = ExitCode.REFUSED


@dataclass(eq=False)
class BusyError(DmcoreError):
    """Somebody else holds what is needed; wait and try again."""

    exit_code = ExitCode.BUSY
    permanent = False


def all_errors(root: type[DmcoreError] = DmcoreError) -> list[type[DmcoreError]]:
    """Every imported class of the tree that can be raised: those with a code of their own."""
    found = [root] if "code" in vars(root) else []
    for child in root.__subclasses__():
        found += all_errors(child)
    return found
