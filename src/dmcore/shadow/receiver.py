"""Receiving one disk of an open cycle: verify, append, sync; and what of it is durable after any break.

One connection feeds a disk at a time. `open` gives it a number, its *attempt*; whoever holds an older one is refused.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from typing_extensions import Buffer

from dmcore.blocks.extents import Extents
from dmcore.model.ids import CycleId, DiskId, PlanId
from dmcore.seal import derive
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import StreamReader
from dmcore.shadow.checkpoint import Checkpoint
from dmcore.shadow.errors import StreamRefused
from dmcore.shadow.log import LogWriter
from dmcore.shadow.records import StreamRecord
from dmcore.shadow.segments import SegmentStart
from dmcore.shadow.staged import StagedDisk
from dmcore.shadow.staging import StagingRoom
from dmcore.shadow.state import CycleDisk
from dmcore.shadow.storage import Storage


class UnsealKeys(NamedTuple):
    """A plan's keys of one version. Never logged, never kept longer than needed."""

    dek: bytes
    digest_root: bytes


KeyLookup = Callable[[int], UnsealKeys]
"""The plan's keys of a DEK version. Raises a TrustError if there are none, or the KEK is not the pinned one."""


def reader_for(header: StreamHeader, keys: KeyLookup, first_batch: int = 0) -> StreamReader:
    """A reader of a logged or arriving stream, from a batch on. Raises WrongKey before anything is decrypted."""
    known = keys(header.dek_version)
    return StreamReader(header, known.dek, derive.digest_key(known.digest_root, header.disk), first_batch)


class DiskReceiver:
    """A disk's staging log and coverage. Thread-safe: one thread appends, one syncs, any may open or close."""

    def __init__(
        self,
        storage: Storage,
        folder: Path,
        keys: KeyLookup,
        plan: PlanId,
        cycle: CycleId,
        disk: DiskId,
        plan_of_disk: CycleDisk,
        room: StagingRoom | None = None,
    ) -> None:
        self._plan, self._cycle, self._disk, self._spec = plan, cycle, disk, plan_of_disk
        self._keys = keys
        room = room or StagingRoom(storage, folder)
        self._staged = StagedDisk(storage, folder, disk, lambda header, first: reader_for(header, keys, first), room)
        self._lock = threading.Lock()
        self._attempt = 0
        self._retired = False
        self._epoch = 0
        self._reader: StreamReader | None = None

    def open(self, epoch: int) -> int:
        """Close whoever was sending this disk, read back what is durable, and give the new attempt's number.

        Raises:
            LogCorrupt: the log is damaged where it was acknowledged. StreamRefused: the cycle or the epoch has ended.
            StateUnreadable: its salt or checkpoint is damaged. LogPoisoned, StagingFull, StagingReadOnly: not now.
        """
        with self._lock:
            if self._retired:
                raise StreamRefused(disk=str(self._disk), problem=f"cycle {self._cycle} is not receiving any more")
            if epoch < self._epoch:
                raise StreamRefused(disk=str(self._disk), problem=f"epoch {epoch} was fenced off by {self._epoch}")
            self._epoch = epoch
            self._end_stream()
            self._staged.bring_durable()
            self._attempt = max(self._attempt, self._staged.attempt + 1)
            return self._attempt

    def durable(self) -> Extents:
        """What is synced: it is not sent again."""
        with self._lock:
            return self._staged.durable.extents()

    @property
    def waits(self) -> bool:
        """Whether what the sender has brought last found no room: it is brought again, and nothing else before."""
        return self._staged.waits

    def start(self, attempt: int, header: StreamHeader, wrapped_keys: bytes) -> None:
        """Begin a stream. Its header is logged before any of its batches.

        Raises:
            StreamRefused: it is not of this attempt, disk and cycle, or its salt was seen. WrongKey: another DEK's.
            StagingFull: no room; if it `waits`, say it again. LogPoisoned, StagingReadOnly: open the disk again.
        """
        with self._lock:
            log = self._check(attempt)
            self._check_header(attempt, header)
            reader = reader_for(header, self._keys)
            self._forget_reader()
            try:
                self._staged.start_stream(log, StreamRecord(header, 0, wrapped_keys))
            except BaseException:
                reader.end()
                raise
            self._reader = reader

    def append(self, attempt: int, data: Buffer) -> int:
        """Authenticate the stream's next batch and append it. Returns its number; it is not durable yet.

        Raises:
            FrameRefused, TotalsDiffer, StreamEnded, BlockRepeated, LogPoisoned, StagingReadOnly: the stream is over.
            StagingFull: no room; if it `waits`, then `append_again`, else the stream is over.
        """
        with self._lock:
            log = self._check(attempt)
            if self._reader is None:
                raise StreamRefused(disk=str(self._disk), problem="a batch before a stream header")
            return self._staged.append(log, self._reader, data)

    def append_again(self, attempt: int, data: Buffer) -> int:
        """Append the batch that found no room; it is not verified a second time. Returns and raises as `append`."""
        with self._lock:
            return self._staged.append_again(self._check(attempt), data)

    def sync(self, attempt: int) -> int | None:
        """Make durable what was appended. Returns the number of the last durable batch, None if there is none yet.

        Raises:
            LogPoisoned: it failed; open the disk again.
        """
        with self._lock:
            log = self._check(attempt)
        durable_to = log.sync()
        with self._lock:
            self._check(attempt)
            return self._staged.settle(durable_to)

    def prepare(self, attempt: int) -> None:
        """Allocate what the next batches will need. Called after `sync`, by the same thread. Raises as that."""
        with self._lock:
            log = self._check(attempt)
        log.prepare()

    def seal(self) -> tuple[Extents, int, int]:
        """Sync, end all streams, and give the coverage, the log's length and its chain, for the state file."""
        with self._lock:
            self._end_stream()
            if not self._staged.exists:
                return self._staged.durable.extents(), 0, 0
            log = self._staged.bring_durable()
            return self._staged.durable.extents(), log.position, log.chain

    # Redo while receiving

    def durable_log(self) -> int:
        """The length of the log that is known to be synced; no stream is stopped for it.

        If nobody has opened the disk since a start or a fence, the log is scanned: raises as `open` then.
        """
        with self._lock:
            if self._staged.log is None and not self._retired and self._staged.exists:
                self._staged.recover()
            return self._staged.durable_log

    def close_segment(self) -> SegmentStart | None:
        """If all of the log is durable: let the next record begin a new segment, and give its start for a checkpoint.

        So an append that waits for room gets it, however little of its segment was written.
        """
        with self._lock:
            return None if self._staged.log is None else self._staged.log.close_segment()

    def save_checkpoint(self, checkpoint: Checkpoint) -> None:
        """Record how far the log was redone, durably, then free the segments before it. Raises OSError."""
        with self._lock:  # no scan may be under way
            self._staged.save_checkpoint(checkpoint)

    # Ends

    def close(self) -> None:
        """Refuse every sender and close the files; what is durable stays. Idempotent."""
        with self._lock:
            self._end_stream()
            self._staged.close()

    def fence(self, epoch: int) -> None:
        """As `close`, and nobody of an older epoch opens it again, not even one who was let in a moment ago."""
        with self._lock:
            self._epoch = max(self._epoch, epoch)
        self.close()

    def retire(self) -> None:
        """As `close`, for good: the log is sealed or dropped, and not one byte may be added to it."""
        with self._lock:
            self._retired = True
        self.close()

    def _check(self, attempt: int) -> LogWriter:
        log = self._staged.log
        if attempt != self._attempt or log is None:
            raise StreamRefused(disk=str(self._disk), problem="another attempt has opened this disk")
        return log

    def _check_header(self, attempt: int, header: StreamHeader) -> None:
        spec = self._spec
        expected = (self._plan, self._disk, self._cycle, self._epoch, attempt)
        if (header.plan, header.disk, header.cycle, header.epoch, header.attempt) != expected:
            raise StreamRefused(disk=str(self._disk), problem="the header names another plan, disk, cycle or attempt")
        shape = (spec.disk_bytes, spec.block_bytes, spec.base_image, spec.dek_version)
        if (header.disk_bytes, header.block_bytes, header.base_image, header.dek_version) != shape:
            raise StreamRefused(
                disk=str(self._disk), problem="the header names another size, base image or key version"
            )
        if header.salt in self._staged.salts:
            raise StreamRefused(disk=str(self._disk), problem="its salt was seen before in this cycle")

    def _end_stream(self) -> None:
        """Whoever sends this disk now is refused from here on."""
        self._attempt += 1
        self._forget_reader()

    def _forget_reader(self) -> None:
        if self._reader is not None:
            self._reader.end()
            self._reader = None
