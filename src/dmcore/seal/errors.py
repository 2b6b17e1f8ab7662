"""What is refused about a stream as a whole. Frames have native/errors.py."""

from dataclasses import dataclass

from dmcore.errors import DmcoreError, IntegrityError, TrustError


@dataclass(eq=False)
class HeaderRefused(IntegrityError):
    """A stream header that no reader of version 1 may accept."""

    code = "stream.header"
    template = "stream header: {problem}"
    problem: str


@dataclass(eq=False)
class WrongKey(TrustError):
    """The key commitment differs: this DEK is not the one that sealed the stream. Nothing was decrypted."""

    code = "stream.wrong-key"
    template = "stream of disk {disk} was sealed under another key than version {dek_version} of this plan's"
    disk: str
    dek_version: int


@dataclass(eq=False)
class TotalsDiffer(IntegrityError):
    """FINAL's totals are not what arrived: frames are missing."""

    code = "stream.totals"
    template = "stream of disk {disk} ends with totals {claimed}, but {counted} arrived"
    disk: str
    claimed: tuple[int, ...]
    counted: tuple[int, ...]


@dataclass(eq=False)
class StreamEnded(DmcoreError):
    """The stream has had its FINAL, has failed, or is at its limit: open a new one."""

    code = "stream.ended"
    template = "stream of disk {disk}: {problem}"
    disk: str
    problem: str
