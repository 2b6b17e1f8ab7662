"""Shadows as sparse files in a folder; a snapshot is a reflink where the file system can, else a sparse copy.

    <root>/.dmcore-lock                      held (flock) while a connector has the folder open
    <root>/volumes/<volume>.img              shadows
    <root>/snapshots/<volume>@<tag>.img      finished snapshots, read-only; the id is <volume>@<tag>
    .../.<name>.tmp                          being made; a crash leaves it, the next open removes it

Everything is made under the temporary name, synced, renamed, and its directory synced: a name without a
leading dot is always a finished one.
"""

import contextlib
import fcntl
import os
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from dmcore.blocks import files
from dmcore.model.enums import SnapshotKind
from dmcore.native.patching import BlockIO
from dmcore.targets.base import TargetCaps
from dmcore.targets.errors import (
    SnapshotMissing,
    TargetInUse,
    TargetIOFailed,
    TargetMissing,
    TargetNameInvalid,
    VolumeExists,
    VolumeMissing,
)
from dmcore.targets.volume import FolderImage, FolderVolume, io_failed

NAME = r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}"
SNAPSHOT_ID = f"{NAME}@{NAME}"
SNAPSHOT_MODE = 0o440


class FolderTarget:
    """A folder of shadows, open in one process at a time. Safe to call from several threads."""

    def __init__(self, root: Path, io: BlockIO | None = None) -> None:
        """Lock the folder, remove what a crash left half made, and find out whether it can reflink.

        Raises:
            TargetMissing: there is no such folder.
            TargetInUse: another connector has it open.
            TargetIOFailed: it cannot be written.
        """
        self._root, self._volumes, self._snapshots = root, root / "volumes", root / "snapshots"
        self._io = io or BlockIO()
        self._naming = threading.Lock()  # looking whether a name is taken, and taking it
        self._lock_fd = -1
        if not root.is_dir():
            raise TargetMissing(path=str(root), problem="no such folder; make it before the connector starts")
        try:
            self._lock()
            self._caps = TargetCaps(self._prepare())
        except OSError as error:
            self.close()
            raise io_failed(root, "open", 0, error) from error

    @property
    def caps(self) -> TargetCaps:
        """REFLINK or SPARSE_COPY, as the folder's file system is."""
        return self._caps

    # Volumes

    def create(self, volume: str, disk_bytes: int) -> None:
        """Make a zeroed volume, durably.

        Raises:
            VolumeExists: there is one of that name.
            TargetIOFailed: it has no size, or could not be made; nothing is left behind.
        """
        path = self._volume_path(volume)
        if disk_bytes <= 0:
            raise TargetIOFailed(path=str(path), operation="create", offset=0, problem=f"a disk of {disk_bytes} bytes")
        with self._naming:
            if path.exists():
                raise VolumeExists(path=str(self._root), volume=volume)
            self._make(path, "create", 0o600, lambda fd: os.ftruncate(fd, disk_bytes))

    def open(self, volume: str) -> FolderVolume:
        """Open a volume to write. Raises VolumeMissing, TargetIOFailed."""
        path = self._volume_path(volume)
        try:
            return FolderVolume(path, self._io)
        except FileNotFoundError:
            raise VolumeMissing(path=str(self._root), volume=volume) from None
        except OSError as error:
            raise io_failed(path, "open", 0, error) from error

    def grow(self, volume: str, disk_bytes: int) -> None:
        """Lengthen a volume by a hole, durably; never shortens it. Raises VolumeMissing, TargetIOFailed."""
        with contextlib.closing(self.open(volume)) as held:
            held.grow(disk_bytes)

    def volumes(self) -> list[str]:
        """The names of all volumes."""
        return self._finished(self._volumes, NAME)

    def delete(self, volume: str) -> None:
        """Remove a volume; its snapshots stay. No error if there is none."""
        self._remove(self._volume_path(volume))

    def free_bytes(self) -> int:
        """What the file system still gives to this user."""
        try:
            stat = os.statvfs(self._root)
        except OSError as error:
            raise io_failed(self._root, "statvfs", 0, error) from error
        return stat.f_bavail * stat.f_frsize

    # Snapshots

    def snapshot(self, volume: str, tag: str) -> str:
        """Snapshot a volume under a tag, durably, and return its id. A finished one of that tag is kept.

        Raises:
            VolumeMissing: no such volume.
            TargetIOFailed: it could not be made; nothing is left behind.
        """
        snapshot = f"{volume}@{tag}"
        path = self._snapshot_path(snapshot)
        with self._naming:
            if path.exists():
                self._keep(path, "snapshot")
            else:
                with contextlib.closing(self.open(volume)) as source:
                    self._make(path, "snapshot", SNAPSHOT_MODE, source.clone_to)
        return snapshot

    def open_snapshot(self, snapshot: str) -> FolderImage:
        """Open a snapshot by its id. Raises SnapshotMissing, TargetIOFailed."""
        path = self._snapshot_path(snapshot)
        try:
            return FolderImage(path)
        except FileNotFoundError:
            raise SnapshotMissing(path=str(self._root), snapshot=snapshot) from None
        except OSError as error:
            raise io_failed(path, "open", 0, error) from error

    def snapshots(self) -> list[str]:
        """The ids of all finished snapshots."""
        return self._finished(self._snapshots, SNAPSHOT_ID)

    def delete_snapshot(self, snapshot: str) -> None:
        """Remove a snapshot. No error if there is none."""
        self._remove(self._snapshot_path(snapshot))

    def close(self) -> None:
        """Release the folder's lock. Idempotent."""
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    # Files

    def _lock(self) -> None:
        self._lock_fd = os.open(self._root / ".dmcore-lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise TargetInUse(path=str(self._root)) from None

    def _prepare(self) -> SnapshotKind:
        for folder in (self._volumes, self._snapshots):
            folder.mkdir(mode=0o700, exist_ok=True)
            for leftover in folder.glob(".*.tmp"):
                leftover.unlink()
        files.fsync_dir(self._root)
        return SnapshotKind.REFLINK if files.can_reflink(self._snapshots) else SnapshotKind.SPARSE_COPY

    def _volume_path(self, volume: str) -> Path:
        return self._volumes / f"{self._checked(NAME, volume)}.img"

    def _snapshot_path(self, snapshot: str) -> Path:
        return self._snapshots / f"{self._checked(SNAPSHOT_ID, snapshot)}.img"

    def _checked(self, pattern: str, name: str) -> str:
        if not re.fullmatch(pattern, name):
            raise TargetNameInvalid(path=str(self._root), name=name)
        return name

    def _make(self, path: Path, operation: str, mode: int, fill: Callable[[int], None]) -> None:
        """Make a file that has its name only once it is whole and durable."""
        unfinished = path.with_name(f".{path.name}.tmp")
        try:
            with self._removed_on_error(unfinished):
                self._fill(unfinished, mode, fill)
                unfinished.rename(path)
        except OSError as error:
            raise io_failed(path, operation, 0, error) from error
        self._keep(path, operation)

    @staticmethod
    def _keep(path: Path, operation: str) -> None:
        """Make a name durable, also one whose directory an earlier call failed to sync."""
        try:
            files.fsync_dir(path.parent)
        except OSError as error:
            raise io_failed(path, operation, 0, error) from error

    @staticmethod
    def _fill(unfinished: Path, mode: int, fill: Callable[[int], None]) -> None:
        unfinished.unlink(missing_ok=True)  # of a call whose own removal failed
        fd = os.open(unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)
        try:
            os.fchmod(fd, mode)  # whatever the umask
            fill(fd)
            os.fsync(fd)
        finally:
            os.close(fd)

    @staticmethod
    @contextlib.contextmanager
    def _removed_on_error(path: Path) -> Iterator[None]:
        try:
            yield
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def _finished(self, folder: Path, pattern: str) -> list[str]:
        """The names in a folder, without those half made: a name never begins with a dot."""
        try:
            names = sorted(found.name.removesuffix(".img") for found in folder.iterdir() if found.suffix == ".img")
        except OSError as error:
            raise io_failed(folder, "list", 0, error) from error
        return [name for name in names if re.fullmatch(pattern, name)]

    def _remove(self, path: Path) -> None:
        try:
            path.unlink(missing_ok=True)
            files.fsync_dir(path.parent)
        except OSError as error:
            raise io_failed(path, "delete", 0, error) from error
