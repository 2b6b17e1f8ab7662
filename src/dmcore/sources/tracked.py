"""Raw disks with a journal of what is written beside each: an image source that can say what changed.

Disks must be written by `TrackedWriter`. One without a sound journal is protected all the same, untracked.
One journal serves one protection: `release` drops what only older tokens need.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence

from dmcore.blocks.extents import Extents
from dmcore.model.enums import Reason
from dmcore.sources import tracking
from dmcore.sources.disks import find_disk
from dmcore.sources.errors import JournalUnsound
from dmcore.sources.filedisk import FileDisk
from dmcore.sources.idle import Fingerprint
from dmcore.sources.image import ImageSource
from dmcore.sources.journal import Journal, end_position, journal_path, locked, read_header


class TrackedDisk(FileDisk):
    """A disk file with a journal beside its origin."""

    def mark(self) -> None:
        """Note the journal's token, or why it has none."""
        path = journal_path(self.origin)
        try:
            with locked(path, exclusive=False) as fd:
                journal = Journal(fd, path, self._info.disk_bytes, self._mtime_ns())
                self._token, self._reason, self._problem = str(journal.token), Reason.TRACKED, ""
        except FileNotFoundError:
            self._problem = f"it has no journal {path}; write it with the tracked writer"
        except (JournalUnsound, OSError) as error:
            self._reason, self._problem = Reason.TRACKING_LOST, str(error)

    def changed_since(self, token: str) -> Extents:
        """What the tracked writer wrote between the token and this snapshot. Raises TrackingLost."""
        if self._token is None:
            return super().changed_since(token)
        return tracking.changes(self.origin, token, self._token)

    def fingerprint(self) -> Fingerprint:
        """What changes when the disk is written, its journal's end included. Raises SourceReadFailed."""
        return super().fingerprint() + self._journal_end()

    def _mtime_ns(self) -> int:
        return os.fstat(self._fd).st_mtime_ns

    def _journal_end(self) -> Fingerprint:
        try:
            with locked(journal_path(self.origin), exclusive=False) as fd:
                header = read_header(fd)
                return () if header is None else (int.from_bytes(header.journal), end_position(fd, header))
        except OSError:
            return ()  # no journal to read; one that goes away meanwhile makes a difference, too


class TrackedSource(ImageSource):
    """A directory of machines whose disks have journals. Safe to call from several threads."""

    tracking = True
    disk_class = TrackedDisk

    def release(self, machine: str, disk: str, token: str) -> None:
        """Drop what only tokens older than this one need. Idempotent.

        Raises:
            SourceMissing: there is no such disk.
            JournalFailed: the journal could not be shortened; it is as before.
        """
        tracking.release(find_disk(self._root, machine, disk), token)

    @contextlib.contextmanager
    def _hold(self, disks: Sequence[FileDisk]) -> Iterator[None]:
        """Hold every journal's lock, so that all disks are as of one moment between two writes."""
        with contextlib.ExitStack() as held:
            for path in sorted({journal_path(disk.origin) for disk in disks}):
                with contextlib.suppress(OSError):  # no journal: `mark` says so
                    held.enter_context(locked(path, exclusive=False))
            yield
