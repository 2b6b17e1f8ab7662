"""What can be wrong with a process's settings file, state files and state directory."""

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


@dataclass(eq=False)
class MetricsUnreachable(ConfigurationError):
    """The address that metrics should be served on cannot be had."""

    code = "metrics.listen"
    template = "cannot serve metrics on {address}: {problem}; stop what uses it, or change [metrics] listen"
    address: str
    problem: str
