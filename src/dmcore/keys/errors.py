"""What can be wrong with a key encryption key (KEK) or with what it wrapped. None ever shows key bytes."""

from dataclasses import dataclass

from dmcore.errors import ConfigurationError, TrustError


@dataclass(eq=False)
class KekUnreadable(ConfigurationError):
    """The KEK file is not there, cannot be read, or does not hold a key."""

    code = "key.file"
    template = "KEK file {path}: {problem}"
    path: str
    problem: str


@dataclass(eq=False)
class KekExposed(ConfigurationError):
    """Others than the owner can read or change the KEK file."""

    code = "key.mode"
    template = "KEK file {path} has mode {mode}: others may have read it; run `chmod 600 {path}`"
    path: str
    mode: str


@dataclass(eq=False)
class KekExists(ConfigurationError):
    """A KEK is there already, and is never overwritten: shadows may depend on it."""

    code = "key.exists"
    template = "KEK file {path} exists already and is not overwritten"
    path: str


@dataclass(eq=False)
class KekNotPinned(TrustError):
    """The KEK file holds another key than the node's configuration pins."""

    code = "key.not-pinned"
    template = "KEK file {path} holds the key {found}, but the configuration pins {pinned}"
    path: str
    found: str
    pinned: str


@dataclass(eq=False)
class WrongKek(TrustError):
    """Keys that were wrapped under a KEK that this node does not pin. Nothing was decrypted."""

    code = "key.wrong-kek"
    template = (
        "keys of plan {plan}, version {dek_version}, are wrapped under the KEK {found}, "
        "but this node pins {pinned}; give both nodes the same KEK"
    )
    plan: str
    dek_version: int
    found: str
    pinned: str


@dataclass(eq=False)
class UnwrapFailed(TrustError):
    """Wrapped bytes that do not open: damaged, or of another purpose, plan or version."""

    code = "key.unwrap"
    template = "the wrapped {purpose} of plan {plan}, version {dek_version}, does not open: damaged, or another's"
    purpose: str
    plan: str
    dek_version: int
