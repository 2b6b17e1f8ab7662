"""The first error of any stage wins: it ends the others, and every thread and every buffer comes back."""

import threading
from dataclasses import replace
from typing import Any
from uuid import UUID

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import Buffer

from dmcore.appliance import reading
from dmcore.appliance.errors import ConnectorForgets, OpenedOtherwise
from dmcore.appliance.queue import BufferPool
from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.model.enums import Rung
from dmcore.model.ids import ImageId
from dmcore.native.batches import SealedBatch
from dmcore.native.errors import SealFailed
from dmcore.seal.stream import StreamWriter
from dmcore.sources.errors import SourceReadFailed
from dmcore.wire.disk_channel import DiskChannel, OpenedDisk
from dmcore.wire.errors import PeerRefused, ProtocolError
from dmcore.wire.messages import OpenRequest
from tests.appliance.cycle_lab import BLOCK, KIB, CycleLab, noise
from tests.appliance.watched import WatchedSource
from tests.sources.faulty import FaultySource
from tests.sources.memory import MemorySource

SIZE = 512 * KIB


@pytest.fixture(autouse=True)
def many_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 16 * KIB)


@pytest.fixture
def source() -> MemorySource:
    """More disks than one, so that somebody else waits for buffers, too."""
    made = MemorySource()
    for disk in "abc":
        made.add("vm", disk, noise(SIZE, ord(disk)))
    return made


@pytest.fixture
def small_lab(lab: CycleLab) -> CycleLab:
    """Few buffers: a single one that is lost would be missed."""
    for pool in ("raw", "sealed"):
        lab.pools = replace(lab.pools, **{pool: BufferPool(3, getattr(lab.pools, pool).size)})
    return lab


def assert_all_is_well_after(lab: CycleLab, source: MemorySource) -> None:
    """The next cycle of the same node is not starved, and right."""
    assert (lab.pools.raw.free, lab.pools.sealed.free) == (3, 3)
    report = lab.run(source)
    assert lab.images(report.point) == {("vm", disk): noise(SIZE, ord(disk)) for disk in "abc"}
    assert (lab.pools.raw.free, lab.pools.sealed.free) == (3, 3)


class Counter:
    """Raises at a certain call, once."""

    def __init__(self, error: Exception, number: int) -> None:
        self.error, self.left, self.lock = error, number, threading.Lock()

    def step(self) -> None:
        with self.lock:
            self.left -= 1
            if not self.left:
                raise self.error


@pytest.mark.parametrize("number", [1, 30])
def test_the_reader_fails(small_lab: CycleLab, source: MemorySource, number: int) -> None:
    faulty = FaultySource(source)
    error = SourceReadFailed(path="a", offset=0, length=BLOCK, problem="medium error")
    faulty.plan.fail("read_into", error, after=number - 1)
    with pytest.raises(SourceReadFailed) as caught:
        small_lab.run(faulty)
    assert caught.value is error
    faulty.plan.verify_exercised()
    assert_all_is_well_after(small_lab, source)


def test_asking_where_there_is_data_fails(small_lab: CycleLab, source: MemorySource) -> None:
    faulty = FaultySource(source)
    error = SourceReadFailed(path="a", offset=0, length=0, problem="medium error")
    faulty.plan.fail("allocated", error, after=3)  # `begin` has asked each disk once
    with pytest.raises(SourceReadFailed) as caught:
        small_lab.run(faulty)
    assert caught.value is error
    assert_all_is_well_after(small_lab, source)


@pytest.mark.parametrize("number", [1, 20])
def test_the_sealer_fails(
    small_lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    seal, counter = StreamWriter.seal, Counter(SealFailed(problem="out of luck"), number)

    def failing_seal(
        self: StreamWriter, blocks: NDArray[np.int64], raw: Buffer, out: Buffer, **options: NDArray[np.int64]
    ) -> SealedBatch:
        counter.step()
        return seal(self, blocks, raw, out, **options)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(StreamWriter, "seal", failing_seal)
        with pytest.raises(SealFailed) as caught:
            small_lab.run(source)
    assert caught.value is counter.error
    assert_all_is_well_after(small_lab, source)


@pytest.mark.parametrize("number", [1, 20])
def test_the_sender_fails(
    small_lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    send, counter = DiskChannel.send_batch, Counter(MemoryError(), number)

    def failing_send(self: DiskChannel, data: memoryview, timeout_s: float) -> int:
        counter.step()
        return send(self, data, timeout_s)

    with monkeypatch.context() as patch:
        patch.setattr(DiskChannel, "send_batch", failing_send)
        with pytest.raises(MemoryError) as caught:
            small_lab.run(source)
    assert caught.value is counter.error
    assert_all_is_well_after(small_lab, source)


def test_the_connector_refuses_a_batch(
    small_lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says is what is raised, not that the connection is gone."""
    send = DiskChannel.send_batch

    def flipped(self: DiskChannel, data: memoryview, timeout_s: float) -> int:
        if self.sent_batches == 3:
            data[-1] ^= 1
        return send(self, data, timeout_s)

    with monkeypatch.context() as patch:
        patch.setattr(DiskChannel, "send_batch", flipped)
        with pytest.raises(PeerRefused) as caught:
            small_lab.run(source)
    assert caught.value.code == "frame.tag"
    assert_all_is_well_after(small_lab, source)


@pytest.mark.parametrize("number", [1, 2])
def test_digests_do_not_come(
    small_lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    small_lab.run(source)
    monkeypatch.setattr(reading, "WINDOW_BLOCKS", 50)
    digests, counter = DiskChannel.digests, Counter(KeyError(), number)

    def failing_digests(self: DiskChannel, first: int, blocks: int) -> NDArray[np.uint8]:
        counter.step()
        return digests(self, first, blocks)

    with monkeypatch.context() as patch:
        patch.setattr(DiskChannel, "digests", failing_digests)
        with pytest.raises(KeyError):
            small_lab.run(source, small_lab.job(resync=Rung.COMPARE))
    assert_all_is_well_after(small_lab, source)


def test_many_windows_of_digests(lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "WINDOW_BLOCKS", 7)
    lab.run(source)
    for block in (0, 6, 7, 100, 127):
        source.write("vm", "b", block * BLOCK, noise(BLOCK, block))
    report = lab.run(source, lab.job(resync=Rung.COMPARE))
    assert {stats.label: stats.changed_bytes for stats in report.disks} == {"a": 0, "b": 5 * BLOCK, "c": 0}
    assert lab.images(report.point)["vm", "b"] == bytes(source._disks["vm", "b"].content)


def test_no_more_buffers_than_the_pool_has(lab: CycleLab, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow the connector is, reading stops when the node's memory is full."""
    source = MemorySource()
    source.add("vm", "a", noise(SIZE))
    for pool in ("raw", "sealed"):
        lab.pools = replace(lab.pools, **{pool: BufferPool(2, getattr(lab.pools, pool).size)})
    watched = WatchedSource(source)
    read_before_sending: list[int] = []
    send = DiskChannel.send_batch

    def slow(self: DiskChannel, data: memoryview, timeout_s: float) -> int:
        if not self.sent_batches:
            with lab.pools.raw._changed:  # until the reader waits for a buffer
                while not lab.pools.raw._changed._waiters:  # type: ignore[attr-defined]
                    lab.pools.raw._changed.wait(0.01)
            read_before_sending.append(len(watched.watch.reads))
        return send(self, data, timeout_s)

    monkeypatch.setattr(DiskChannel, "send_batch", slow)
    report = lab.run(watched)
    assert lab.image(report) == noise(SIZE)
    # At most: OPEN and one batch are sealed, and the two raw buffers hold the next two.
    assert read_before_sending[0] <= 3


class TestWhatTheConnectorSays:
    """Its numbers are checked before they index, allocate or seal anything."""

    @pytest.fixture
    def source(self) -> MemorySource:
        made = MemorySource()
        made.add("vm", "a", noise(SIZE))
        return made

    def answer(self, monkeypatch: pytest.MonkeyPatch, durable: Extents | None = None, **changes: object) -> None:
        open_disk = DiskChannel.open

        def opened(self: DiskChannel, request: OpenRequest) -> OpenedDisk:
            found = open_disk(self, request)
            reply = found.reply.model_copy(update=changes)
            grid = Grid(reply.disk_bytes, reply.block_bytes)
            return replace(found, reply=reply, grid=grid, durable=found.durable if durable is None else durable)

        monkeypatch.setattr(DiskChannel, "open", opened)

    @pytest.mark.parametrize(
        "changes", [{"disk_bytes": 2 * SIZE}, {"block_bytes": 2 * BLOCK}, {"base_image": ImageId(UUID(int=1))}]
    )
    def test_another_disk(
        self, lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
    ) -> None:
        self.answer(monkeypatch, **changes)
        with pytest.raises(OpenedOtherwise, match="disk a: planned with 524288 bytes in blocks of 4096"):
            lab.run(source)

    def test_durable_blocks_that_nobody_planned(
        self, lab: CycleLab, source: MemorySource, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lab.run(source)
        source.write("vm", "a", 0, b"x")
        self.answer(monkeypatch, durable=ex.from_pairs([(0, 3 * BLOCK)]))
        with pytest.raises(ConnectorForgets, match="disk a: the connector holds 8192 bytes"):
            lab.run(source)

    @pytest.mark.parametrize(
        ("changes", "field"),
        [({"dek_version": 0}, "dek_version"), ({"wrapped_dek": "AAA"}, "dek"), ({"kek_fingerprint": ""}, "kek")],
    )
    def test_keys_that_are_none(
        self,
        lab: CycleLab,
        source: MemorySource,
        monkeypatch: pytest.MonkeyPatch,
        changes: dict[str, Any],
        field: str,
    ) -> None:
        self.answer(monkeypatch, **changes)
        with pytest.raises(ProtocolError, match=f"wrapped keys with a bad {field}"):
            lab.run(source)
