"""A raw file as a snapshot's disk, live or reflinked, and a snapshot of such disks."""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path

from typing_extensions import Buffer

from dmcore.blocks import files
from dmcore.blocks.extents import Extents
from dmcore.model.enums import Consistency, Reason
from dmcore.sources.base import DiskInfo
from dmcore.sources.errors import SourceChanged, SourceReadFailed, TrackingLost
from dmcore.sources.idle import Fingerprint, fingerprint
from dmcore.sources.store import DiskRecord

REFLINK_MODE = 0o400


class FileDisk:
    """One open disk file. `path` is what is read; `origin` is the protected disk, maybe its model."""

    def __init__(self, machine: str, info: DiskInfo, fd: int, path: Path, *, origin: Path) -> None:
        self.machine = machine
        self.path = path
        self.origin = origin
        self._info = info
        self._fd = fd
        self._token: str | None = None
        self._reason = Reason.NO_TRACKING
        self._problem = "an image source does not track changes"

    @property
    def info(self) -> DiskInfo:
        """The disk, with its size at the snapshot."""
        return self._info

    @property
    def next_token(self) -> str | None:
        """The tracking token that stands for this snapshot; None where changes are not tracked."""
        return self._token

    def allocated(self) -> Extents:
        """Where the file has data rather than holes. Raises SourceReadFailed."""
        try:
            return files.data_extents(self._fd, self._info.disk_bytes)
        except OSError as error:
            raise self._read_failed(0, 0, str(error)) from error

    def changed_since(self, token: str) -> Extents:
        """Nothing is known. Raises TrackingLost."""
        raise TrackingLost(path=str(self.origin), token=token, problem=self._problem, reason=self._reason)

    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill the whole buffer from offset.

        Raises:
            SourceReadFailed: the range is not inside the disk, or reading failed.
            SourceChanged: the disk is shorter now.
        """
        length = memoryview(buffer).nbytes
        if not 0 <= offset <= self._info.disk_bytes - length:
            raise self._read_failed(offset, length, f"outside the disk of {self._info.disk_bytes} bytes")
        try:
            files.read_full(self._fd, offset, buffer)
        except EOFError as error:
            raise SourceChanged(path=str(self.origin), problem=f"it shrank: {error}") from None
        except OSError as error:
            raise self._read_failed(offset, length, str(error)) from error

    def close(self) -> None:
        """Free the handle. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    # What a source does with it

    def mark(self) -> None:
        """Note what token stands for the disk as it is now; called while its writers are kept away."""

    def restore(self, record: DiskRecord) -> None:
        """Be the disk that a snapshot's description says."""
        self._token, self._reason, self._problem = record.token, record.reason, record.problem

    def record(self) -> DiskRecord:
        """The disk as its snapshot's description says it."""
        return DiskRecord(
            machine=self.machine,
            disk=self._info.identity,
            disk_bytes=self._info.disk_bytes,
            token=self._token,
            reason=self._reason,
            problem=self._problem,
        )

    def fingerprint(self) -> Fingerprint:
        """What changes when the disk is written. Raises SourceReadFailed."""
        return fingerprint(self._fd, self.path)

    def reflink_to(self, path: Path) -> None:
        """Make a durable reflink of it under a new name. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, REFLINK_MODE)
        try:
            if not files.try_reflink(self._fd, fd):
                raise OSError(f"{self.origin} cannot be reflinked: no file of the root's own file system")
            if os.fstat(fd).st_size != self._info.disk_bytes:
                raise OSError(f"{self.origin} changed its size")
            os.fsync(fd)
        finally:
            os.close(fd)

    def _read_failed(self, offset: int, length: int, problem: str) -> SourceReadFailed:
        return SourceReadFailed(path=str(self.origin), offset=offset, length=length, problem=problem)


class FileSnapshot:
    """Disks at one moment; with `start`, live ones that must still be as they were when it began."""

    def __init__(
        self,
        name: str,
        identity: str,
        taken_at: datetime,
        disks: Sequence[FileDisk],
        *,
        start: Sequence[Fingerprint] | None = None,
    ) -> None:
        self._name, self._identity, self._taken_at = name, identity, taken_at
        self._disks = {(disk.machine, disk.info.identity): disk for disk in disks}
        self._start = start

    @property
    def name(self) -> str:
        """What it was asked to be called."""
        return self._name

    @property
    def identity(self) -> str:
        """Random: no other snapshot has it."""
        return self._identity

    @property
    def taken_at(self) -> datetime:
        """When (UTC): just before the disks were reflinked, or opened."""
        return self._taken_at

    @property
    def consistency(self) -> Consistency:
        """As after a power cut: nobody asked the guest."""
        return Consistency.CRASH

    @property
    def disks(self) -> Mapping[tuple[str, str], FileDisk]:
        """The disks by (machine identity, disk identity)."""
        return self._disks

    def check_still_valid(self) -> None:
        """Live disks are as they were when it began. Raises SourceChanged, SourceReadFailed."""
        if self._start is not None:
            check_unchanged(self._start, list(self._disks.values()))

    def close(self) -> None:
        """Free file handles. Idempotent."""
        for disk in self._disks.values():
            disk.close()


def fingerprints(disks: Sequence[FileDisk]) -> list[Fingerprint]:
    """How each disk is now. Raises SourceReadFailed."""
    return [disk.fingerprint() for disk in disks]


def check_unchanged(before: Sequence[Fingerprint], disks: Sequence[FileDisk]) -> None:
    """Compare with how each disk is now.

    Raises:
        SourceChanged: one was written, resized, renamed or replaced.
    """
    for then, disk in zip(before, disks, strict=True):
        if disk.fingerprint() != then:
            raise SourceChanged(path=str(disk.origin), problem="written, resized, renamed or replaced")
