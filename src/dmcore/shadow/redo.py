"""Redo: a sealed log onto its shadow and digest map. Idempotent from the log's start, whatever was done before."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dmcore.native.batches import OpenedBatch
from dmcore.seal.constants import MAX_BATCH_DATA_BYTES
from dmcore.seal.stream import StreamReader
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.receiver import KeyLookup, reader_for
from dmcore.shadow.records import HEADER_BYTES, RecordType, StreamRecord
from dmcore.shadow.segments import LogReader
from dmcore.targets.base import Volume

ROUND_BYTES = 256 << 20
"""How much is patched between two flushes."""
ROUND_FRAMES = 65_536
"""How many digests wait for the shadow's flush: with their rows, 3 MiB."""

Progress = Callable[[int], None]
"""Told, now and then, how many bytes of a log have been done since it was last told."""


@dataclass
class RedoResult:
    """What a redo did to one disk."""

    written_bytes: int = 0
    zeroed_bytes: int = 0
    failed_frames: int = 0
    """Frames that did not open: their blocks are unknown now."""


class Redo:
    """One disk's redo. One thread."""

    def __init__(self, volume: Volume, digest_map: DigestMap, keys: KeyLookup) -> None:
        self._volume, self._map, self._keys = volume, digest_map, keys
        self._buffer = bytearray(MAX_BATCH_DATA_BYTES)
        self._waiting: list[OpenedBatch] = []
        self._waiting_bytes = self._waiting_frames = 0
        self._reader: StreamReader | None = None
        self._result = RedoResult()

    def run(self, log: LogReader, log_bytes: int, log_chain: int, progress: Progress) -> RedoResult:
        """Patch every batch of a log of this length and chain, then flush shadow and map.

        Raises:
            LogCorrupt: the log is not whole. TargetError, OSError: the redo can be run again.
        """
        for record, body in log.records(log_bytes):
            if record.type is RecordType.STREAM:
                self._enter(StreamRecord.unpack(bytes(body)))
            elif self._reader is not None:
                self._apply(self._reader.open(body, self._buffer))
            progress(HEADER_BYTES + record.body_bytes)
        log.check_sealed(log_bytes, log_chain)
        self._leave()
        self._settle()
        self._map.flush()
        return self._result

    def _enter(self, stream: StreamRecord) -> None:
        if self._reader is None or self._reader.header != stream.header:
            self._leave()
            self._reader = reader_for(stream.header, self._keys)

    def _leave(self) -> None:
        if self._reader is not None:
            self._reader.end()
            self._reader = None

    def _apply(self, batch: OpenedBatch) -> None:
        if not len(batch.rows):
            return
        opened = batch.rows[:, 3] == 0
        done = self._volume.patch(np.ascontiguousarray(batch.rows[opened, :3]), self._buffer)
        self._result.written_bytes += done.written_bytes
        self._result.zeroed_bytes += done.zeroed_bytes
        self._result.failed_frames += int((~opened).sum())
        self._waiting.append(batch)
        self._waiting_bytes += done.written_bytes
        self._waiting_frames += len(batch.rows)
        if self._waiting_bytes >= ROUND_BYTES or self._waiting_frames >= ROUND_FRAMES:
            self._settle()

    def _settle(self) -> None:
        """The map is never ahead of the shadow: flush first."""
        self._volume.flush()
        for batch in self._waiting:
            self._map.write(batch)
        self._waiting, self._waiting_bytes, self._waiting_frames = [], 0, 0
