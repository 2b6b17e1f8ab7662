"""The room for staging logs of all groups: quota, reservations, and the spare segments that logs use again.

What a log takes is told here before it is allocated, and again when it is free; nothing is counted by walking but once,
when the room is opened. Who waits for room is called whenever some came free.
"""

import threading
from collections.abc import Callable
from pathlib import Path

from dmcore.shadow import segments
from dmcore.shadow.errors import StagingFull
from dmcore.shadow.storage import Storage

SPARE_FOLDER = ".spare"
WAIT_S = 3600.0
MAX_SPARES = 16
"""1 GiB: a usual cycle then writes into used segments only, which is two to three times as fast as into new ones."""


class StagingRoom:
    """Thread-safe. A log's folder is `<staging>/<group>/<cycle>/<disk>`, and a cycle's is its parent."""

    def __init__(
        self,
        storage: Storage,
        staging: Path,
        reserve_bytes: int = 0,
        quota_bytes: int | None = None,
        *,
        wait_s: float = WAIT_S,
        max_spares: int = MAX_SPARES,
    ) -> None:
        """`reserve_bytes` stay free on the file system; `quota_bytes`, if given, bound all logs and spares together."""
        self.wait_s = wait_s
        """How long an append may wait for room."""
        self._storage, self._staging = storage, staging
        self._reserve_bytes, self._quota_bytes, self._max_spares = reserve_bytes, quota_bytes, max_spares
        self._lock = threading.RLock()
        self._used: dict[Path, dict[Path, int]] = {}
        """By cycle, then by log."""
        self._promised: dict[Path, int] = {}
        self._spares: list[Path] = []
        self._made = 0
        self._waiting: list[Callable[[], None]] = []

    @classmethod
    def open(
        cls,
        storage: Storage,
        staging: Path,
        reserve_bytes: int = 0,
        quota_bytes: int | None = None,
        wait_s: float = WAIT_S,
    ) -> "StagingRoom":
        """The room as a stop or crash has left it: what logs take is counted, spares are not kept. Raises OSError."""
        room = cls(storage, staging, reserve_bytes, quota_bytes, wait_s=wait_s)
        storage.make_dir(staging)
        storage.remove_tree(staging / SPARE_FOLDER)
        for group in storage.names(staging):
            for cycle in storage.names(staging / group):
                for disk in storage.names(staging / group / cycle):
                    room.recount(staging / group / cycle / disk)
        return room

    @property
    def used_bytes(self) -> int:
        """What logs and spare segments take."""
        with self._lock:
            return self._used_by_logs + self._spare_bytes

    @property
    def short(self) -> bool:
        """Whether somebody waits for room."""
        with self._lock:
            return bool(self._waiting)

    # Cycles

    def reserve(self, cycle: Path, expected_bytes: int) -> None:
        """Keep what a cycle expects to stage from others: its logs find it. Until `remove` of its folder.

        Raises:
            StagingFull: there is not so much. Nothing is reserved.
        """
        with self._lock:
            self._require(cycle, expected_bytes)
            self._promised[cycle] = expected_bytes

    def promise(self, cycle: Path, expected_bytes: int) -> None:
        """As `reserve` of a cycle that was admitted before a restart: kept for it as far as it is there."""
        with self._lock:
            self._promised[cycle] = expected_bytes

    def remove(self, path: Path) -> None:
        """Remove a log, or a cycle's or group's logs, and free what they take; whole segments become spares.

        Raises:
            OSError: some of it may be left; call it again.
        """
        for log in self._logs_below(path):
            for _, segment in segments.segment_files(self._storage, log):
                if len(self._spares) < self._max_spares:
                    self.give_back(segment)
        self._storage.remove_tree(path)
        with self._lock:
            for log in self._logs_below(path):
                del self._used[log.parent][log]
            for cycle in [cycle for cycle in self._promised if cycle.is_relative_to(path)]:
                del self._promised[cycle]
            self._used = {cycle: logs for cycle, logs in self._used.items() if logs}
        self._tell()

    # Logs

    def grow(self, log: Path, count: int) -> None:
        """A log is about to allocate so much more.

        Raises:
            StagingFull: there is not so much that is not promised to others.
        """
        with self._lock:
            self._require(log.parent, count)
            while self._spares and self._free() - self._spare_bytes < count:
                self._storage.unlink(self._spares.pop())
            self._add(log, count)

    def ungrow(self, log: Path, count: int) -> None:
        """It could not be allocated. Nobody is told: who waits would ask for the same again at once."""
        with self._lock:
            self._add(log, -count)

    def shrink(self, log: Path, count: int) -> None:
        """A log takes so much less now."""
        with self._lock:
            self._add(log, -count)
        self._tell()

    def recount(self, log: Path) -> None:
        """Look at what a log takes now, whatever was told before."""
        with self._lock:
            self._used.setdefault(log.parent, {})[log] = self._storage.used_bytes(log)
        self._tell()

    def take_spare(self, path: Path) -> bool:
        """Make a spare segment the file `path` of a log, durably. False: there is none, or it is promised to others.

        Raises:
            OSError: it may be in both places: the next start removes the spare one, and the log's is made anew.
        """
        with self._lock:
            cycle = path.parent.parent
            if not self._spares or self._free() - self._promised_to_others(cycle) < segments.SEGMENT_BYTES:
                return False
            self._move(self._spares.pop(), path)
            self._add(path.parent, segments.SEGMENT_BYTES)
            return True

    def give_back(self, path: Path) -> None:
        """A log needs this segment no more: it becomes a spare if it is a whole one, else it is removed.

        Raises:
            OSError: it may still be there.
        """
        with self._lock:
            with segments.opened(self._storage, path) as fd:
                size = self._storage.size(fd)
            if size == segments.SEGMENT_BYTES and len(self._spares) < self._max_spares:
                self._storage.make_dir(self._staging / SPARE_FOLDER)
                self._made += 1
                spare = self._staging / SPARE_FOLDER / f"{self._made:08x}"
                self._move(path, spare)
                self._spares.append(spare)
            else:
                self._storage.unlink(path)
        self.shrink(path.parent, size)

    # Waiters

    def waits(self, wake: Callable[[], None]) -> None:
        """Call `wake`, by any thread, whenever there is more room, until `waits_no_more`."""
        with self._lock:
            self._waiting.append(wake)

    def waits_no_more(self, wake: Callable[[], None]) -> None:
        """Do not call it any more. No error if it was not to be."""
        with self._lock:
            if wake in self._waiting:
                self._waiting.remove(wake)

    # Inside

    @property
    def _used_by_logs(self) -> int:
        return sum(sum(logs.values()) for logs in self._used.values())

    @property
    def _spare_bytes(self) -> int:
        return len(self._spares) * segments.SEGMENT_BYTES

    def _add(self, log: Path, count: int) -> None:
        logs = self._used.setdefault(log.parent, {})
        logs[log] = max(logs.get(log, 0) + count, 0)

    def _free(self) -> int:
        """What could be allocated if no spare was kept."""
        free = self._storage.free_bytes(self._staging) - self._reserve_bytes + self._spare_bytes
        if self._quota_bytes is None:
            return free
        return min(free, self._quota_bytes - self._used_by_logs)

    def _promised_to_others(self, cycle: Path) -> int:
        """What other cycles were promised and have not taken yet."""
        others = [(other, promised) for other, promised in self._promised.items() if other != cycle]
        return sum(max(promised - sum(self._used.get(other, {}).values()), 0) for other, promised in others)

    def _require(self, cycle: Path, count: int) -> None:
        free = self._free() - self._promised_to_others(cycle)
        if count > free:
            raise StagingFull(path=str(self._staging), needed_bytes=count, free_bytes=max(free, 0))

    def _logs_below(self, path: Path) -> list[Path]:
        with self._lock:
            return [log for logs in self._used.values() for log in logs if log.is_relative_to(path)]

    def _move(self, old: Path, new: Path) -> None:
        """Rename over directories. Both are synced: a segment must never be a spare and a log's at once."""
        self._storage.rename(old, new)
        self._storage.sync_dir(old.parent)

    def _tell(self) -> None:
        with self._lock:
            waiting = list(self._waiting)
        for wake in waiting:  # outside the lock: a wake may take locks of its own
            wake()
