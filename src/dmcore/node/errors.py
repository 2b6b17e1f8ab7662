"""What can be wrong with the names in a node's own settings. Pairing has pairing_errors.py."""

from dataclasses import dataclass

from dmcore.errors import ConfigurationError


@dataclass(eq=False)
class AliasUnknown(ConfigurationError):
    """A job, plan or command names something that this node's configuration does not."""

    code = "alias.unknown"
    template = "no {noun} {alias!r} in this node's configuration; it has: {known}"
    noun: str
    alias: str
    known: str


@dataclass(eq=False)
class PathOutsideRoots(ConfigurationError):
    """An alias leads outside the directories that the operator allowed."""

    code = "path.outside-roots"
    template = "{alias!r}: {path} {problem}; allowed roots: {roots}"
    alias: str
    path: str
    problem: str
    roots: str
