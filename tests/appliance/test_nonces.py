"""However often a cycle breaks and goes on, no (frame key, nonce) pair ever meets two plaintexts."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.appliance import pump, reading, transfer
from dmcore.appliance.errors import Cancelled
from dmcore.model.enums import Rung
from dmcore.native.batches import SealedBatch
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import Codec, StreamWriter
from tests.appliance.cycle_lab import KIB, MIB, CycleLab, noise, text
from tests.appliance.watched import WatchedSource
from tests.seal.nonces import NonceRecorder
from tests.sources.memory import MemorySource

SIZE = MIB + 512


class Recording:
    """Takes StreamWriter's place in the pump: every frame that is sealed is seen by the recorder, sent or not."""

    def __init__(self) -> None:
        self.recorder = NonceRecorder()
        self.streams = 0

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(pump, "StreamWriter", self.writer())

    def writer(self) -> type[StreamWriter]:
        """What takes its place."""
        recording = self

        class Recorded(StreamWriter):
            def __init__(
                self, header: StreamHeader, dek: bytes, digest_key: bytes, codec: Codec = Codec.LZ4, level: int = 1
            ) -> None:
                super().__init__(header, dek, digest_key, codec, level)
                self._frame_key = self.header.frame_key(dek)
                recording.streams += 1

            def open(self, out: Buffer) -> int:
                return self._noted(out, super().open(out))

            def final(self, out: Buffer) -> int:
                return self._noted(out, super().final(out))

            def seal(self, blocks: NDArray[np.int64], raw: Buffer, out: Buffer, **options: Any) -> SealedBatch:
                sealed = super().seal(blocks, raw, out, **options)
                self._noted(out, sealed.used)
                return sealed

            def _noted(self, out: Buffer, used: int) -> int:
                recording.recorder.saw(self._frame_key, bytes(memoryview(out)[:used]))
                return used

        return Recorded


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> Recording:
    monkeypatch.setattr(reading, "BATCH_BYTES", 32 * KIB)
    made = Recording()
    made.install(monkeypatch)
    return made


def storm(lab: CycleLab, cuts: list[int]) -> None:
    """Every disk connection breaks after so many bytes."""
    lab.proxy.limit(None)
    for cut in cuts:
        lab.proxy.limit(None, cut)


def test_a_resume_storm(lab: CycleLab, recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "PART_BYTES", 512 * KIB)
    source = MemorySource()
    source.add("vm", "a", text(SIZE))
    watched = WatchedSource(source)
    storm(lab, [200 * KIB, 60 * KIB, 150 * KIB, 3000, 90 * KIB])
    assert lab.image(lab.run(watched)) == text(SIZE)
    for rung in (Rung.DELTA, Rung.COMPARE):
        source.write("vm", "a", 100, noise(600 * KIB, ord(rung[0])))
        storm(lab, [150 * KIB, 90 * KIB, 2000])
        job = lab.job(resync=rung)
        cycle = lab.cycle(watched, job)
        watched.watch.at_read(12, lambda cycle=cycle: cycle.cancel("the node stops"))  # type: ignore[misc]
        with pytest.raises(Cancelled):
            cycle.run()
        watched.watch.act = lambda _: None
        lab.proxy._limits.clear()
        report = lab.run(watched, lab.next_attempt(job))
        assert lab.image(report) == bytes(source._disks["vm", "a"].content)
    assert recording.streams >= 8
    assert recording.recorder.frames > 3 * SIZE // 4096 // 2


def test_the_recorder_sees_what_it_should(lab: CycleLab, recording: Recording) -> None:
    """OPEN, each block, FINAL; and the same frames under the same key are caught."""
    source = MemorySource()
    source.add("vm", "a", noise(64 * KIB))
    lab.run(source)
    assert (recording.streams, recording.recorder.frames) == (1, 1 + 16 + 1)
    frame = bytearray(100)
    frame[:2] = (0xD15C).to_bytes(2, "big")
    recording.recorder.saw(b"key", frame)
    with pytest.raises(AssertionError, match="two plaintexts"):
        recording.recorder.saw(b"key", frame)
