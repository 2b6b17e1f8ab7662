"""Disks as raw files, without tracking: `<root>/<machine>/<disk>.img` or `.raw`.

Symbolic links are followed inside the root only. To protect a block device, make its node in the machine's
folder (`mknod`). A snapshot is a reflink of every disk where the file system can. Otherwise nothing is
copied: the disks are read live, must be idle, and `check_still_valid` says whether they were (`idle.py`).
"""

import contextlib
import os
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from dmcore.blocks import files
from dmcore.model.enums import SnapshotKind
from dmcore.sources.base import DiskInfo, MachineInfo, SourceCaps
from dmcore.sources.disks import find_machine, list_machines, open_disk, real_path, size_of
from dmcore.sources.errors import SnapshotFailed, SourceMissing, SourceUnfit
from dmcore.sources.filedisk import FileDisk, FileSnapshot, check_unchanged, fingerprints
from dmcore.sources.idle import TICK_S
from dmcore.sources.store import DISKS, DiskRecord, SnapshotRecord, SnapshotStore


def utc_now() -> datetime:
    """The time, with its zone."""
    return datetime.now(UTC)


class ImageSource:
    """A directory of machines, each a folder of raw disks. Safe to call from several threads."""

    tracking = False
    disk_class: type[FileDisk] = FileDisk

    def __init__(self, root: Path, *, now: Callable[[], datetime] = utc_now) -> None:
        """Look at the root, and find out whether its files can be reflinked.

        Raises:
            SourceMissing: there is nothing at the path.
            SourceUnfit: it is no directory.
        """
        if not root.exists():
            raise SourceMissing(path=str(root))
        if not root.is_dir():
            raise SourceUnfit(path=str(root), problem="no directory; a source is a directory of machines")
        self._root = root
        self._now = now
        self._store = SnapshotStore(root)
        self._caps = SourceCaps(self._probe(), tracking=self.tracking)

    @property
    def caps(self) -> SourceCaps:
        """REFLINK or NONE, as the root's file system is."""
        return self._caps

    def machines(self) -> list[MachineInfo]:
        """All machines, those that cannot be protected with the reason. Raises SourceUnfit."""
        return list_machines(self._root)

    def snapshot(self, machines: Sequence[str], name: str) -> FileSnapshot:
        """Snapshot the machines together. Without reflinks their disks are only opened and looked at.

        Raises:
            SourceMissing: there is no such machine.
            SourceUnfit: one of its disks cannot be protected.
            SnapshotFailed: the name is taken or invalid, or a reflink failed. Nothing is left behind.
            SourceChanged: several disks, one of which was written between their reflinks.
        """
        path = self._store.path(name)
        if path.exists():
            raise SnapshotFailed(path=str(self._root), name=name, problem="exists already")
        with contextlib.ExitStack() as opened:
            disks = self._open_live(machines, opened)
            with self._hold(disks):
                for disk in disks:
                    disk.mark()
                if self._caps.snapshots is SnapshotKind.REFLINK:
                    return self._reflink(disks, name)
                live = self._live(disks, name)
            opened.pop_all()
        time.sleep(TICK_S)  # sleeps: a write from now on leaves another mtime than the fingerprint's
        return live

    def find_snapshot(self, name: str) -> FileSnapshot | None:
        """The existing snapshot of this name; None if it is gone, or the source makes none.

        Raises:
            SnapshotFailed: it is there, but damaged.
        """
        record = self._store.read(name)
        return None if record is None else self._reopen(record, name)

    def delete_snapshot(self, name: str) -> None:
        """Delete it. No error if there is none. Raises SnapshotFailed."""
        self._store.delete(name)

    def snapshots(self) -> list[str]:
        """The names of all snapshots that dmcore made here, half made ones too."""
        return self._store.names()

    def release(self, machine: str, disk: str, token: str) -> None:
        """Nothing is kept for tokens that this source never gave."""

    def close(self) -> None:
        """It holds nothing."""

    # What a tracked source does otherwise

    def _hold(self, disks: Sequence[FileDisk]) -> contextlib.AbstractContextManager[object]:
        """Keep the disks' writers away while the snapshot is made; nobody can for plain images."""
        return contextlib.nullcontext(disks)

    # Making and opening snapshots

    def _probe(self) -> SnapshotKind:
        try:
            return SnapshotKind.REFLINK if files.can_reflink(self._root) else SnapshotKind.NONE
        except OSError:
            return SnapshotKind.NONE  # a root that cannot be written can still be read

    def _open_live(self, machines: Sequence[str], opened: contextlib.ExitStack) -> list[FileDisk]:
        disks: list[FileDisk] = []
        for machine in machines:
            found = find_machine(self._root, machine)
            if found.problem:
                raise SourceUnfit(path=str(self._root / machine), problem=found.problem)
            for info in found.disks:
                fd, real = open_disk(self._root / machine / info.identity, root=self._root)
                opened.callback(os.close, fd)
                now = DiskInfo(identity=info.identity, label=info.label, disk_bytes=size_of(fd))
                disks.append(self.disk_class(machine, now, fd, real, origin=real))
        return disks

    def _live(self, disks: Sequence[FileDisk], name: str) -> FileSnapshot:
        return FileSnapshot(name, uuid4().hex, self._now(), disks, start=fingerprints(disks))

    def _reflink(self, disks: Sequence[FileDisk], name: str) -> FileSnapshot:
        before = fingerprints(disks)
        record = SnapshotRecord(
            identity=uuid4().hex, taken_at=self._now(), disks=tuple(disk.record() for disk in disks)
        )
        with self._store.making(name) as folder:
            for disk in disks:
                disk.reflink_to(folder / DISKS / disk.machine / disk.info.identity)
            if len(disks) > 1:  # one reflink is one moment; several are only if nobody wrote in between
                check_unchanged(before, disks)
            self._store.write(folder, record)
        return self._reopen(record, name)

    def _reopen(self, record: SnapshotRecord, name: str) -> FileSnapshot:
        with contextlib.ExitStack() as opened:
            disks = [self._reopen_disk(disk, name, opened) for disk in record.disks]
            opened.pop_all()
        return FileSnapshot(name, record.identity, record.taken_at, disks)

    def _reopen_disk(self, record: DiskRecord, name: str, opened: contextlib.ExitStack) -> FileDisk:
        path = self._store.path(name) / DISKS / record.machine / record.disk
        try:
            fd, real = open_disk(path, root=self._store.path(name))
        except (SourceMissing, SourceUnfit) as error:
            raise SnapshotFailed(path=str(self._root), name=name, problem=f"{error}; delete it") from error
        opened.callback(os.close, fd)
        if size_of(fd) != record.disk_bytes:
            raise SnapshotFailed(path=str(real), name=name, problem="its size changed; delete it")
        info = DiskInfo(identity=record.disk, label=record.disk, disk_bytes=record.disk_bytes)
        origin = real_path(self._root / record.machine / record.disk)
        disk = self.disk_class(record.machine, info, fd, real, origin=origin)
        disk.restore(record)
        return disk
