"""Which versions of the wire protocol this node speaks, and what the two ends make of it."""

from importlib.metadata import version
from typing import Final

VERSIONS: Final = (1,)
"""Newest first. From version 2 on: the newest and the one before it."""
CAPABILITIES: Final[tuple[str, ...]] = ()
"""Names of what may be used beyond the version's messages; both ends must have one for it to be used."""


def software() -> str:
    """What this node runs, for the peer's log."""
    return f"dmcore/{version('dmcore')}"


def choose(theirs: tuple[int, ...]) -> int | None:
    """The newest version that both speak; None: there is none."""
    return max(set(theirs) & set(VERSIONS), default=None)


def shared(theirs: tuple[str, ...]) -> tuple[str, ...]:
    """The capabilities that both have."""
    return tuple(name for name in CAPABILITIES if name in theirs)
