"""One object, one thread: eight work side by side, a second thread in one is refused, a wipe waits for it to leave."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

from dmcore.native.digests import Scanner
from dmcore.native.errors import SealFailed
from dmcore.native.patching import BlockIO
from dmcore.native.sealing import worst_case_bytes
from dmcore.seal import constants as c
from tests.native.devices import FaultyDevice
from tests.seal.streams import BLOCK, DIGEST_KEY, MIB, content, extents, ids, opener, room, sealer, text

THREADS = 8
BLOCKS = 16
BIG = c.MAX_BATCH_DATA_BYTES // MIB


def sealed_disk(disk: int) -> list[bytes]:
    one, out, plain = sealer(codec=disk % 3), room(BLOCKS), bytearray(BLOCKS * BLOCK)
    reader = opener()
    batches = []
    for batch in range(1, 20):
        raw = b"".join((text if block % 2 else content)(1000 * disk + batch + block) for block in range(BLOCKS))
        used = one.seal(batch, ids(*range(BLOCKS)), raw, out).used
        reader.open(batch, out[:used], plain)
        assert plain == raw
        batches.append(bytes(out[:used]))
    return batches


def test_eight_threads_each_with_a_sealer_of_its_own() -> None:
    expected = [sealed_disk(disk) for disk in range(THREADS)]
    with ThreadPoolExecutor(THREADS) as pool:
        assert list(pool.map(sealed_disk, range(THREADS))) == expected


def until_in_use(call: Callable[[], object], work: "Future[Any]") -> None:
    """Call until it is refused because another thread is inside the object."""
    while not work.done():
        try:
            call()
        except SealFailed as refused:
            if "in use by another thread" in refused.problem:
                return
    pytest.fail("the other thread was never seen")


def test_a_sealer_in_use_is_refused_and_wiped_when_it_is_left() -> None:
    one = sealer(disk_bytes=64 * MIB, block_bytes=MIB, codec=c.CODEC_ZSTD, level=12)
    raw = b"".join(text(block, MIB // 2) + content(block, MIB // 2) for block in range(BIG))
    out, other = bytearray(worst_case_bytes(BIG, MIB)), bytearray(99)
    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(one.seal, 2, ids(*range(BIG)), raw, out)
        until_in_use(lambda: one.seal_control(c.TYPE_FINAL, 1, bytes(32), other), work)
        one.wipe()
        used = work.result().used
    opener(disk_bytes=64 * MIB, block_bytes=MIB).verify(2, out[:used])
    with pytest.raises(SealFailed, match="wiped"):
        one.seal_control(c.TYPE_FINAL, 3, bytes(32), other)


def test_an_opener_in_use_is_refused_and_wiped_when_it_is_left() -> None:
    disk_bytes = 64 * MIB
    out = bytearray(worst_case_bytes(BIG, MIB))
    raw = b"".join(content(block, MIB) for block in range(BIG))
    used = sealer(disk_bytes=disk_bytes, block_bytes=MIB).seal(1, ids(*range(BIG)), raw, out).used
    small = bytearray(room(0, zero_runs=1))
    sealer(disk_bytes=disk_bytes, block_bytes=MIB).seal(1, ids(), b"", small, zero_runs=extents((0, MIB)))
    one = opener(disk_bytes=disk_bytes, block_bytes=MIB)

    def read_on() -> object:
        batch, plain = memoryview(out)[:used], bytearray(len(raw))
        while True:
            one.open(1, batch, plain)

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(read_on)
        until_in_use(lambda: one.verify(1, small), work)
        one.wipe()
        with pytest.raises(SealFailed, match="wiped"):
            work.result()


def test_a_scanner_in_use_is_refused_and_wiped_when_it_is_left() -> None:
    one = Scanner(DIGEST_KEY, block_bytes=MIB, disk_bytes=64 * MIB)
    raw = b"".join(content(block, MIB) for block in range(BIG))

    def scan_on() -> object:
        while True:
            one.scan(ids(*range(BIG)), raw)

    with ThreadPoolExecutor(1) as pool:
        work = pool.submit(scan_on)
        until_in_use(lambda: one.scan(ids(1), raw), work)
        one.wipe()
        with pytest.raises(SealFailed, match="wiped"):
            work.result()


def test_a_handlers_error_goes_to_the_thread_whose_call_it_was() -> None:
    class Nested(FaultyDevice):
        """Fails a call in the midst of which another call of the same BlockIO succeeds."""

        def fdatasync(self, fd: int) -> None:
            if fd == 1:
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(io.sync, 2).result()
                raise KeyError(fd)

    io = BlockIO(Nested(bytearray()))
    with pytest.raises(KeyError):
        io.sync(1)
    io.sync(2)
