"""Storage and target that stop, or fail, at the n-th call that makes something durable."""

import ctypes
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from dmcore.native.patching import BlockIO
from dmcore.shadow.storage import Storage
from dmcore.targets.base import Readable, TargetCaps, Volume
from dmcore.targets.folder import FolderTarget

libc = ctypes.CDLL(None, use_errno=True)


class PowerCut(BaseException):
    """The process dies here; what was done before stays done."""


def open_files() -> int:
    """How many descriptors this process holds."""
    return len(list(Path("/proc/self/fd").iterdir()))


class Trigger:
    """Calls `act` at the n-th step, and at every later one if it is final."""

    def __init__(self, at: int | None, act: Callable[[str], None], *, final: bool = True) -> None:
        self.at, self.act, self.final = at, act, final
        self.steps: list[str] = []

    def step(self, what: str) -> None:
        self.steps.append(what)
        if self.at is not None and (len(self.steps) == self.at or (self.final and len(self.steps) > self.at)):
            self.act(what)


def cut(what: str) -> None:
    raise PowerCut(what)


class SystemCalls:
    """The native table's three calls, each a step."""

    def __init__(self, trigger: Trigger) -> None:
        self.trigger = trigger

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self.trigger.step("pwritev")
        return os.pwritev(fd, buffers, offset)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self.trigger.step("fallocate")
        if libc.fallocate(fd, mode, ctypes.c_int64(offset), ctypes.c_int64(length)):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))

    def fdatasync(self, fd: int) -> None:
        self.trigger.step("fdatasync")
        os.fdatasync(fd)


class PageCache(SystemCalls):
    """Remembers what the medium held of each file that has unsynced writes, so that a power cut can take them back."""

    def __init__(self, trigger: Trigger) -> None:
        super().__init__(trigger)
        self.unsynced: dict[int, tuple[int, bytes]] = {}

    def pwritev(self, fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        self._remember(fd)
        return super().pwritev(fd, buffers, offset)

    def fallocate(self, fd: int, mode: int, offset: int, length: int) -> None:
        self._remember(fd)
        super().fallocate(fd, mode, offset, length)

    def fdatasync(self, fd: int) -> None:
        super().fdatasync(fd)
        kept = self.unsynced.pop(os.fstat(fd).st_ino, None)
        if kept is not None:
            os.close(kept[0])

    def end(self, lost: Callable[[int], bool]) -> None:
        """The power goes: of each file, by number, either all unsynced writes are lost or all have just made it."""
        for number, (fd, content) in enumerate(self.unsynced.values()):
            if lost(number):
                os.ftruncate(fd, len(content))
                os.pwrite(fd, content, 0)
            os.close(fd)
        self.unsynced = {}

    def _remember(self, fd: int) -> None:
        inode = os.fstat(fd).st_ino
        if inode not in self.unsynced:
            # The duplicate keeps the inode's number from being given to another file.
            self.unsynced[inode] = (os.dup(fd), Path(f"/proc/self/fd/{fd}").read_bytes())


class SteppedStorage(Storage):
    def __init__(self, trigger: Trigger) -> None:
        self.cache = PageCache(trigger)
        super().__init__(BlockIO(self.cache))
        self.trigger = trigger

    def rename(self, old: Path, new: Path) -> None:
        self.trigger.step(f"rename {new.name}")
        super().rename(old, new)

    def create(self, path: Path) -> int:
        self.trigger.step("create")
        return super().create(path)

    def truncate(self, path: Path, size: int) -> None:
        self.trigger.step("truncate")
        super().truncate(path, size)

    def unlink(self, path: Path) -> None:
        self.trigger.step("unlink")
        super().unlink(path)

    def remove_tree(self, path: Path) -> None:
        self.trigger.step("remove_tree")
        super().remove_tree(path)

    def sync_dir(self, path: Path) -> None:
        self.trigger.step("sync_dir")
        super().sync_dir(path)


class SteppedTarget:
    """A folder target whose own durable acts are steps, before and after."""

    def __init__(self, root: Path, storage: SteppedStorage) -> None:
        self.inner = FolderTarget(root, storage.io)
        self.trigger = storage.trigger

    @property
    def caps(self) -> TargetCaps:
        return self.inner.caps

    def create(self, volume: str, disk_bytes: int) -> None:
        self.trigger.step("create volume")
        self.inner.create(volume, disk_bytes)
        self.trigger.step("volume created")

    def grow(self, volume: str, disk_bytes: int) -> None:
        self.trigger.step("grow volume")
        self.inner.grow(volume, disk_bytes)

    def delete(self, volume: str) -> None:
        self.trigger.step("delete volume")
        self.inner.delete(volume)

    def snapshot(self, volume: str, tag: str) -> str:
        self.trigger.step("snapshot")
        done = self.inner.snapshot(volume, tag)
        self.trigger.step("snapshot made")
        return done

    def open(self, volume: str) -> Volume:
        return self.inner.open(volume)

    def volumes(self) -> list[str]:
        return self.inner.volumes()

    def free_bytes(self) -> int:
        return self.inner.free_bytes()

    def open_snapshot(self, snapshot: str) -> Readable:
        return self.inner.open_snapshot(snapshot)

    def snapshots(self) -> list[str]:
        return self.inner.snapshots()

    def delete_snapshot(self, snapshot: str) -> None:
        self.trigger.step("delete snapshot")
        self.inner.delete_snapshot(snapshot)

    def close(self) -> None:
        self.inner.close()
