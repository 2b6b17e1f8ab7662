"""What is done with a disk's journal: start it, ask it, shorten it."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from dmcore.blocks import files
from dmcore.blocks.extents import Extents
from dmcore.model.enums import Reason
from dmcore.sources.disks import open_disk, size_of
from dmcore.sources.errors import JournalFailed, JournalUnsound, TrackingLost
from dmcore.sources.journal import (
    RECORD_BYTES,
    Header,
    Journal,
    end_position,
    journal_path,
    locked,
    read_extents,
    read_header,
    record_offset,
)
from dmcore.sources.token import Token, parse_token


def start_tracking(disk: Path) -> None:
    """See to it that a disk has a sound journal. One that is sound already is kept, tokens and all.

    Raises:
        SourceMissing: there is no such disk.
        SourceUnfit: it is no disk.
        JournalFailed: its journal cannot be written.
    """
    fd, real = open_disk(disk)
    try:
        with writing(fd, real):
            pass
    except OSError as error:
        raise JournalFailed(path=str(journal_path(real)), problem=str(error)) from error
    finally:
        os.close(fd)


@contextlib.contextmanager
def writing(disk_fd: int, disk: Path) -> Iterator[tuple[int, Journal]]:
    """A disk's journal, locked for a write; a missing or unsound one is started anew. Raises OSError."""
    path = journal_path(disk)
    with locked(path, exclusive=True, create=True) as fd:
        disk_bytes, mtime_ns = size_of(disk_fd), os.fstat(disk_fd).st_mtime_ns
        try:
            journal = Journal(fd, path, disk_bytes, mtime_ns)
        except JournalUnsound:
            _restart(fd, path, Header(os.urandom(16), disk_bytes, 0, mtime_ns))
            journal = Journal(fd, path, disk_bytes, mtime_ns)
        yield fd, journal


def _restart(fd: int, path: Path, header: Header) -> None:
    """In place, so that whoever waits for the lock waits for the right file; half done, it stays unsound."""
    os.ftruncate(fd, 0)
    os.pwrite(fd, header.pack(), 0)
    os.fsync(fd)
    files.fsync_dir(path.parent)


def changes(disk: Path, since: str, until: str) -> Extents:
    """What may have been written between two tokens of a disk, sorted and merged.

    Raises:
        TrackingLost: its journal cannot say.
    """
    start, end = parse_token(since), parse_token(until)
    if start is None or end is None:
        raise _lost(disk, since, "that is no token of a tracked source")
    try:
        with locked(journal_path(disk), exclusive=False) as fd:
            return _changes(fd, disk, start, end)
    except FileNotFoundError:
        raise _lost(disk, since, "its journal is gone", Reason.TRACKING_RESET) from None
    except (OSError, ValueError, EOFError) as error:
        raise _lost(disk, since, f"{journal_path(disk)}: {error}") from error


def _changes(fd: int, disk: Path, start: Token, end: Token) -> Extents:
    header = read_header(fd)
    if header is None:
        raise _lost(disk, str(start), "the header of its journal is damaged")
    if not header.journal == start.journal == end.journal:
        raise _lost(disk, str(start), "its journal was started anew since", Reason.TRACKING_RESET)
    if start.position < header.base:
        raise _lost(disk, str(start), f"its journal begins at {header.base}, what was before is released")
    if start.position > end.position:
        raise _lost(disk, str(start), f"the snapshot's journal ends at {end.position}")
    return read_extents(fd, header, start.position, end.position)


def _lost(disk: Path, token: str, problem: str, reason: Reason = Reason.TRACKING_LOST) -> TrackingLost:
    return TrackingLost(path=str(disk), token=token, problem=problem, reason=reason)


def release(disk: Path, token: str) -> None:
    """Drop the records before a token, if it is one of this journal. Positions and id stay.

    A new file replaces the old one at once: a crash leaves one or the other whole.

    Raises:
        JournalFailed: the journal could not be replaced; it is as before.
    """
    parsed = parse_token(token)
    path = journal_path(disk)
    try:
        if parsed is not None and path.exists():
            with locked(path, exclusive=True) as fd:
                _release(fd, path, parsed)
    except OSError as error:
        raise JournalFailed(path=str(path), problem=f"cannot be shortened: {error}") from error


def _release(fd: int, path: Path, token: Token) -> None:
    header = read_header(fd)
    if header is None or header.journal != token.journal:
        return
    end = end_position(fd, header)
    if not header.base < token.position <= end:
        return
    unfinished = path.with_name(f".{path.name}.tmp")
    new_fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    try:
        shorter = replace(header, base=token.position)
        os.pwrite(new_fd, shorter.pack(), 0)
        start, length = record_offset(header, token.position), (end - token.position) * RECORD_BYTES
        files.copy_range(fd, new_fd, start, length, to=record_offset(shorter, token.position))
        os.fsync(new_fd)
    finally:
        os.close(new_fd)
    unfinished.rename(path)
    files.fsync_dir(path.parent)
