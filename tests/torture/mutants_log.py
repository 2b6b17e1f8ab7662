"""The log, its scan, its checkpoints and direct cycles with one rule broken."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from dmcore.blocks import extents as ex
from dmcore.shadow import checkpoint, cutting, dropping, forward, log, logsalt, staged
from dmcore.shadow.checkpoint import Checkpoint
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.log import LogWriter
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.redo import Redo
from dmcore.shadow.segments import LogEnd
from dmcore.shadow.staged import StagedDisk
from dmcore.shadow.storage import Storage
from tests.torture.memory_storage import MemoryStorage
from tests.torture.mutants import (
    Patch,
    mutant,
    nothing,
    with_direct_deltas,
    with_direct_deltas_left,
    with_drains,
    with_left,
    with_rounds,
)

# Receiving


@mutant()
def acknowledged_before_it_is_synced() -> list[Patch]:
    def sync(self: DiskReceiver, attempt: int) -> int | None:
        return self._staged.settle(self._check(attempt).position)

    return [(DiskReceiver, "sync", sync)]


@mutant(with_rounds)
def only_the_last_segment_is_synced() -> list[Patch]:
    real = LogWriter._sync_files
    return [(LogWriter, "_sync_files", lambda self, fds: real(self, fds[-1:]))]


@mutant()
def what_a_killed_process_wrote_is_called_durable() -> list[Patch]:
    """The scan's result is not synced."""

    def truncate(self: Storage, path: Path, size: int) -> None:
        fd = self.open(path)
        self._set_size(fd, size)
        self.close(fd)

    return [(LogWriter, "sync", SyncedOnlyLater(LogWriter.sync)), (Storage, "truncate", truncate)]


class SyncedOnlyLater:
    """A log's first sync, which is the scan's, does nothing."""

    def __init__(self, real: Callable[[LogWriter], int]) -> None:
        self.real = real

    def __get__(self, log: LogWriter, _: object) -> Callable[[], int]:
        return lambda: self.sync(log)

    def sync(self, log: LogWriter) -> int:
        if getattr(log, "synced", False):
            return self.real(log)
        log.synced = True  # type: ignore[attr-defined]
        log.durable_to = log.position
        return log.position


@mutant()
def the_page_cache_is_trusted_after_a_failed_sync() -> list[Patch]:
    return [(MemoryStorage, "forget_cached", nothing)]


@mutant()
def a_failed_sync_is_tried_again() -> list[Patch]:
    def sync_files(self: LogWriter, fds: list[int]) -> None:
        for fd in fds:
            try:
                self._storage.io.sync(fd)
            except OSError:
                self._storage.io.sync(fd)

    return [(LogWriter, "_sync_files", sync_files)]


@mutant(with_drains)
def records_of_an_older_log_are_accepted() -> list[Patch]:
    """Every log has the same salt: what a segment held when another log used it is taken for this one's."""
    one = bytes(range(16))

    def make_salt(storage: Storage, folder: Path) -> bytes:
        fixed = logsalt.LAYOUT.pack(logsalt.MAGIC, logsalt.VERSION, 0, one)
        storage.replace(folder / logsalt.SALT_FILE, fixed + logsalt._checksum(fixed))
        return one

    return [(cutting, "make_salt", make_salt)]


@mutant()
def segments_behind_a_torn_tail_are_left() -> list[Patch]:
    real = cutting.cut

    def cut(storage: Storage, folder: Path, end: LogEnd) -> Any:
        return real(storage, folder, replace(end, beyond=[]))

    return [(log, "cut", cut)]


# Checkpoints


@mutant(with_rounds)
def the_checkpoint_is_saved_before_the_shadow_is_flushed() -> list[Patch]:
    """Nothing is flushed, and no map written, but at the end."""
    real = Redo._walk

    def walk(self: Redo, *args: Any, **kwargs: Any) -> int:
        self._settle = nothing  # type: ignore[method-assign]
        done = real(self, *args, **kwargs)
        del self._settle
        self._settle()
        return done

    return [(Redo, "_walk", walk)]


@mutant(with_drains)
def segments_are_reclaimed_before_the_checkpoint_is_saved() -> list[Patch]:
    def save(self: StagedDisk, held: Checkpoint) -> None:
        checkpoint.reclaim(self._storage, self._folder, held, self._room.give_back)
        checkpoint.save_checkpoint(self._storage, self._folder, held)

    return [(StagedDisk, "save_checkpoint", save)]


@mutant(with_drains)
def the_checkpoint_is_not_synced() -> list[Patch]:
    def save(storage: Storage, folder: Path, held: Checkpoint) -> None:
        path = folder / checkpoint.CHECKPOINT_FILE
        fd = storage._open(path.with_name("checkpoint.new"), 0o1101)
        storage.io.append(fd, b"", checkpoint._pack(held), 0)
        storage.close(fd)
        storage._move(path.with_name("checkpoint.new"), path)

    return [(staged, "save_checkpoint", save), (forward, "save_checkpoint", save)]


@mutant(with_drains)
def what_lies_before_a_checkpoint_is_not_covered() -> list[Patch]:
    real = Redo._checkpoint
    return [(Redo, "_checkpoint", lambda self, at: replace(real(self, at), covered=ex.empty()))]


# Direct cycles


@mutant(with_direct_deltas_left)
def a_direct_cycle_is_dropped_without_marking_what_is_unknown() -> list[Patch]:
    real = Redo.mark_unknown
    return [(Redo, "mark_unknown", lambda self, extents: real(self, ex.empty()))]


@mutant(with_direct_deltas_left)
def a_direct_cycle_is_dropped_at_once() -> list[Patch]:
    """What it had written to the shadow is nobody's."""
    return [(dropping, "needs_accounting", lambda kit, cycle: False)]


@mutant(with_left)
def a_dropped_seed_keeps_its_token() -> list[Patch]:
    real = forward.image_after
    return [(dropping, "image_after", lambda cycle, disk, token, unknown: real(cycle, disk, "token-0", unknown))]


@mutant(with_direct_deltas)
def a_disk_goes_direct_before_the_state_says_so() -> list[Patch]:
    def go_direct(self: GroupShadow, disk: Any) -> None:
        cycle = self._state.receiving
        if cycle is not None:
            self._state = self._state.model_copy(update={"cycle": cycle.with_direct([disk])})

    return [(GroupShadow, "go_direct", go_direct)]
