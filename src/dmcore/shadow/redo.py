"""Redo: a log onto its shadow and digest map, in rounds; each leaves a checkpoint, and the next run begins there.

The order of a round is what makes any crash harmless: shadow patched, shadow flushed, old digests kept, map written,
map flushed, checkpoint saved. Redoing a round that was done before, in part or whole, changes nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dmcore.blocks.coverage import Coverage
from dmcore.blocks.extents import Extents
from dmcore.native.batches import Opened, OpenedBatch
from dmcore.seal.constants import MAX_BATCH_DATA_BYTES
from dmcore.seal.stream import StreamReader
from dmcore.shadow.checkpoint import Checkpoint
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.errors import LogCorrupt
from dmcore.shadow.receiver import KeyLookup, reader_for
from dmcore.shadow.records import HEADER_BYTES, RecordType, StreamRecord
from dmcore.shadow.segments import LogReader, SegmentStart
from dmcore.targets.base import Volume

ROUND_BYTES = 256 << 20
"""How much is patched between two checkpoints, or a segment if that is more."""
ROUND_FRAMES = 65_536
"""How many digests wait for the shadow's flush: with their rows, 3 MiB."""

Progress = Callable[[int], None]
"""Told, now and then, how many bytes of a log have been done since it was last told."""
KeepOld = Callable[[Sequence[OpenedBatch]], None]
"""Makes durable what the map has of these batches' blocks, before it is overwritten."""
SaveCheckpoint = Callable[[Checkpoint], None]


@dataclass(frozen=True)
class LogRest:
    """What of a log has still to be redone."""

    folder: Path
    log: LogReader
    start: Checkpoint | None
    """Where `log` begins; None: at its beginning."""


class Redo:
    """One disk's redo. One thread, used once."""

    def __init__(self, volume: Volume, digest_map: DigestMap, keys: KeyLookup, keep_old: KeepOld | None = None) -> None:
        self._volume, self._map, self._keys, self._keep_old = volume, digest_map, keys, keep_old
        self._buffer = bytearray(MAX_BATCH_DATA_BYTES)
        self._waiting: list[OpenedBatch] = []
        self._waiting_bytes = self._waiting_frames = 0
        self._round_bytes = self._round_frames = 0
        self._reader: StreamReader | None = None
        self._attempt = 0
        self._salts: set[bytes] = set()
        self._covered = Coverage()
        self.failed_frames = 0
        """Frames that did not open, those before the checkpoint too: their blocks are unknown now."""

    def run(self, rest: LogRest, upto: int, save: SaveCheckpoint, progress: Progress) -> None:
        """Patch all up to this length of the log, then flush shadow and map, with a checkpoint at each round's end.

        Raises:
            IntegrityError: the log is not what was verified. TargetError, OSError: the redo can be run again.
        """
        self._walk(rest, upto, save, progress, rounds=None)

    def drain(self, rest: LogRest, upto: int, save: SaveCheckpoint, progress: Progress) -> None:
        """The same for one round, where a segment ends at `upto`: there is a checkpoint too. Raises as `run`."""
        if self._walk(rest, upto, save, progress, rounds=1):
            return
        end = rest.log.end
        if end.position != upto:
            raise LogCorrupt(path=str(rest.folder), position=end.position, durable_to=upto)
        save(self._checkpoint(SegmentStart(rest.log.at.segment + 1, end.position, end.chain, end.salt)))

    def mark_unknown(self, extents: Extents) -> None:
        """From now on nobody knows what these blocks hold: the next cycle must carry them. Durable. Raises as `run`."""
        rows = np.concatenate([extents, np.tile([-1, Opened.BAD_TAG], (len(extents), 1))], axis=1)
        self._wait_for_flush(OpenedBatch(rows.astype(np.int64), np.empty((0, 16), dtype=np.uint8)))
        self._settle()

    def _walk(self, rest: LogRest, upto: int, save: SaveCheckpoint, progress: Progress, rounds: int | None) -> int:
        """Returns how many rounds' ends were at a segment's end."""
        self._begin_at(rest.start)
        segment, checkpoints = rest.log.at.segment, 0
        try:
            for record, body in rest.log.records(upto):
                if rest.log.at.segment != segment:
                    segment = rest.log.at.segment
                    checkpoints += self._end_round(rest.log.at, save)
                    if checkpoints == rounds:
                        break
                self._take(record.type, body)
                progress(HEADER_BYTES + record.body_bytes)
        finally:
            self._leave()
        self._settle()
        return checkpoints

    def _begin_at(self, start: Checkpoint | None) -> None:
        if start is not None:
            self._attempt, self._salts, self._covered = start.attempt, set(start.salts), Coverage(start.covered)
            self.failed_frames = start.failed_frames

    def _take(self, kind: RecordType, body: memoryview) -> None:
        if kind is RecordType.STREAM:
            self._enter(StreamRecord.unpack(bytes(body)))
        elif self._reader is not None:
            self._apply(self._reader.open(body, self._buffer))

    def _enter(self, stream: StreamRecord) -> None:
        if self._reader is None or self._reader.header != stream.header:
            self._leave()
            self._reader = reader_for(stream.header, self._keys, stream.next_batch)
            self._attempt = max(self._attempt, stream.header.attempt)
            self._salts.add(stream.header.salt)

    def _leave(self) -> None:
        if self._reader is not None:
            self._reader.end()
            self._reader = None

    def _apply(self, batch: OpenedBatch) -> None:
        if not len(batch.rows):
            return
        opened = batch.rows[:, 3] == Opened.OK
        done = self._volume.patch(np.ascontiguousarray(batch.rows[opened, :3]), self._buffer)
        self.failed_frames += int((~opened).sum())
        self._covered.add(np.ascontiguousarray(batch.rows[:, :2]))
        self._waiting_bytes += done.written_bytes
        self._wait_for_flush(batch)
        if self._waiting_bytes >= ROUND_BYTES or self._waiting_frames >= ROUND_FRAMES:
            self._settle()

    def _wait_for_flush(self, batch: OpenedBatch) -> None:
        self._waiting.append(batch)
        self._waiting_frames += len(batch.rows)

    def _settle(self) -> None:
        """The map is never ahead of the shadow: flush first. What it had before is kept before it is gone."""
        if not self._waiting:
            return
        self._volume.flush()
        if self._keep_old is not None:
            self._keep_old(self._waiting)
        for batch in self._waiting:
            self._map.write(batch)
        self._map.flush()
        self._round_bytes += self._waiting_bytes
        self._round_frames += self._waiting_frames
        self._waiting, self._waiting_bytes, self._waiting_frames = [], 0, 0

    def _end_round(self, at: SegmentStart, save: SaveCheckpoint) -> bool:
        """Where a segment begins: leave a checkpoint if a round's worth was done since the last one."""
        frames, size = self._round_frames + self._waiting_frames, self._round_bytes + self._waiting_bytes
        if size < ROUND_BYTES and frames < ROUND_FRAMES:
            return False
        self._settle()
        save(self._checkpoint(at))
        self._round_bytes = self._round_frames = 0
        return True

    def _checkpoint(self, at: SegmentStart) -> Checkpoint:
        return Checkpoint(
            at.segment, at.position, at.chain, at.salt, self._attempt, frozenset(self._salts), self.failed_frames,
            self._covered.extents(),
        )  # fmt: skip
