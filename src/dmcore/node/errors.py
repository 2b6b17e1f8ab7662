"""What can be wrong with a node's own settings, files and identity. Pairing has pairing_errors.py."""

from dataclasses import dataclass

from dmcore.errors import BusyError, ConfigurationError


@dataclass(eq=False)
class SettingsRefused(ConfigurationError):
    """The configuration file is missing, not TOML, or has a key or value that this node does not know."""

    code = "settings.invalid"
    template = "configuration {path}: {problem}"
    path: str
    problem: str


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


@dataclass(eq=False)
class FileExposed(ConfigurationError):
    """A private key that others than the owner can read or change."""

    code = "file.mode"
    template = "{path} has mode {mode}: others may have read this key; run `chmod 600 {path}`, better make a new one"
    path: str
    mode: str


@dataclass(eq=False)
class FileBroken(ConfigurationError):
    """A file of the node's state directory, or one its configuration names, cannot be used."""

    code = "file.broken"
    template = "{path}: {problem}"
    path: str
    problem: str


@dataclass(eq=False)
class NodeRunning(BusyError):
    """Another process runs on this state directory."""

    code = "node.running"
    template = "{path}: another process of this node is running on this state directory; stop it first"
    path: str
