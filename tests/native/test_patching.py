"""Batches onto devices: one write for neighbours, the ladder of zeros, and every failure to its caller."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dmcore.native.batches import Opened, Patched, ZeroMode
from dmcore.native.patching import BlockIO
from tests.native.devices import ERRNOS, KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE, FaultyDevice, MemoryDevice

FD = 77
DISK = 4096
RAW = bytes(range(1, 256)) * 16


def rows(*wanted: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.array(wanted, dtype=np.int64).reshape(-1, 3)


def disk() -> MemoryDevice:
    return MemoryDevice(bytearray(b"\xee" * DISK))


def faulty() -> FaultyDevice:
    return FaultyDevice(bytearray(b"\xee" * DISK))


def expected(wanted: NDArray[np.int64], raw: bytes = RAW) -> bytes:
    content = bytearray(b"\xee" * DISK)
    for offset, length, position in wanted.tolist():
        content[offset : offset + length] = bytes(length) if position < 0 else raw[position : position + length]
    return bytes(content)


ROW = st.tuples(st.integers(0, 15), st.integers(1, 4), st.integers(-1, 15)).map(
    lambda row: (row[0] * 128, row[1] * 128, row[2] * 128 if row[2] >= 0 else -1)
)


@given(st.lists(ROW, max_size=12), st.integers(1, 700), st.sampled_from(ZeroMode))
def test_the_disk_is_as_the_rows_say(wanted: list[tuple[int, int, int]], most_bytes: int, mode: ZeroMode) -> None:
    """However short the device's writes are."""
    device = disk()
    device.most_bytes = most_bytes
    patched = BlockIO(device).patch(FD, rows(*wanted), RAW, mode)
    assert bytes(device.content) == expected(rows(*wanted))
    assert patched.zero_mode == mode
    assert patched.written_bytes == sum(length for _, length, position in wanted if position >= 0)
    assert patched.zeroed_bytes == sum(length for _, length, position in wanted if position < 0)


def test_neighbours_become_one_write() -> None:
    device = disk()
    patched = BlockIO(device).patch(FD, rows((0, 128, 0), (128, 128, 512), (256, 64, 640), (512, 64, 0)), RAW)
    assert device.calls == [("pwritev", FD, [128, 192], 0), ("pwritev", FD, [64], 512)]
    assert patched == Patched(384, 0, 2, ZeroMode.PUNCH_HOLE)


def test_zeros_end_a_run_of_neighbours() -> None:
    device = disk()
    BlockIO(device).patch(FD, rows((0, 128, 0), (128, 128, -1), (256, 128, 128)), RAW)
    assert device.names() == ["pwritev", "fallocate", "pwritev"]


def test_more_neighbours_than_one_write_takes() -> None:
    wanted = rows(*((n, 1, 2 * n) for n in range(600)))
    device = disk()
    BlockIO(device).patch(FD, wanted, RAW)
    assert [len(call[2]) for call in device.calls if isinstance(call[2], list)] == [256, 256, 88]
    assert bytes(device.content) == expected(wanted)


def test_nothing_to_patch() -> None:
    device = disk()
    assert BlockIO(device).patch(FD, rows(), b"") == Patched(0, 0, 0, ZeroMode.PUNCH_HOLE)
    assert device.calls == []


PUNCH, RANGE = ("fallocate", FD, PUNCH_HOLE | KEEP_SIZE, 0, 512), ("fallocate", FD, ZERO_RANGE | KEEP_SIZE, 0, 512)


def test_zeros_are_punched() -> None:
    device = disk()
    BlockIO(device).patch(FD, rows((0, 512, -1)), b"")
    assert device.calls == [PUNCH]


@pytest.mark.parametrize("refusal", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_the_ladder_remembers_what_the_device_refused(refusal: int) -> None:
    device = faulty()
    io = BlockIO(device)
    device.fail("fallocate", refusal)
    mode = io.patch(FD, rows((0, 512, -1)), b"").zero_mode
    assert mode is ZeroMode.ZERO_RANGE
    assert device.calls == [("fallocate failed",), RANGE]
    device.fail("fallocate", refusal)
    mode = io.patch(FD, rows((0, 512, -1), (1024, 512, -1)), b"", mode).zero_mode
    assert mode is ZeroMode.WRITE
    assert device.names()[2:] == ["fallocate failed", "pwritev", "pwritev"]
    assert io.patch(FD, rows((0, 512, -1)), b"", mode).zero_mode is ZeroMode.WRITE
    assert bytes(device.content[:1536]) == bytes(512) + b"\xee" * 512 + bytes(512)
    assert not device.left


def test_einval_is_of_this_run_and_not_remembered() -> None:
    device = faulty()
    device.fail("fallocate", errno.EINVAL, errno.EOPNOTSUPP)
    patched = BlockIO(device).patch(FD, rows((0, 512, -1), (1024, 512, -1)), b"")
    assert patched.zero_mode is ZeroMode.PUNCH_HOLE
    assert device.names() == ["fallocate failed", "fallocate failed", "pwritev", "fallocate"]


def test_long_zeros_are_written_in_pieces() -> None:
    device = MemoryDevice(bytearray(b"\xee" * (40 << 20)))
    BlockIO(device).patch(FD, rows((5, (33 << 20) + 7, -1)), b"", ZeroMode.WRITE)
    assert device.content.count(0) == (33 << 20) + 7
    assert not any(device.content[5 : 5 + (33 << 20) + 7])


@pytest.mark.parametrize("error", [*ERRNOS, errno.EINVAL, errno.EOPNOTSUPP])
def test_a_failed_write_is_the_callers(error: int) -> None:
    device = faulty()
    device.fail("pwritev", error)
    with pytest.raises(OSError) as raised:  # noqa: PT011 - errno is looked at
        BlockIO(device).patch(FD, rows((0, 512, 0)), RAW)
    assert raised.value.errno == error
    assert not device.left


@pytest.mark.parametrize("error", ERRNOS)
def test_a_failed_punch_is_the_callers(error: int) -> None:
    device = faulty()
    device.fail("fallocate", error)
    with pytest.raises(OSError) as raised:  # noqa: PT011 - errno is looked at
        BlockIO(device).patch(FD, rows((0, 512, -1)), b"")
    assert raised.value.errno == error
    assert device.names() == ["fallocate failed"]


@pytest.mark.parametrize("error", [*ERRNOS, errno.EINTR, errno.EINVAL])
def test_a_failed_sync_is_the_callers_and_never_repeated(error: int) -> None:
    device = faulty()
    device.fail("fdatasync", error)
    with pytest.raises(OSError) as raised:  # noqa: PT011 - errno is looked at
        BlockIO(device).sync(FD)
    assert raised.value.errno == error
    assert device.names() == ["fdatasync failed"]


def test_interrupted_calls_are_repeated() -> None:
    device = faulty()
    device.fail("pwritev", errno.EINTR, errno.EINTR)
    device.fail("fallocate", errno.EINTR)
    BlockIO(device).patch(FD, rows((0, 512, 0), (512, 512, -1)), RAW)
    assert device.names() == ["pwritev failed"] * 2 + ["pwritev", "fallocate failed", "fallocate"]
    assert bytes(device.content[:1024]) == RAW[:512] + bytes(512)


def test_a_write_without_progress_is_an_error() -> None:
    device = disk()
    device.most_bytes = 0
    with pytest.raises(OSError, match="Input/output error"):
        BlockIO(device).patch(FD, rows((0, 512, 0)), RAW)
    assert device.names() == ["pwritev"]


class PowerCutError(BaseException):
    """What no handler may swallow."""


@pytest.mark.parametrize("name", ["pwritev", "fallocate", "fdatasync"])
@pytest.mark.parametrize("error", [PowerCutError("cut"), KeyError("bug")], ids=["base exception", "exception"])
def test_any_exception_of_a_handler_goes_to_the_caller(name: str, error: BaseException) -> None:
    device = faulty()
    io = BlockIO(device)
    device.fail(name, error)

    def patch_and_sync() -> None:
        io.patch(FD, rows((0, 512, 0), (1024, 512, -1)), RAW)
        io.sync(FD)

    with pytest.raises(type(error)) as raised:
        patch_and_sync()
    assert raised.value is error
    patch_and_sync()


def test_what_stood_before_a_failure_is_written() -> None:
    device = faulty()
    device.fail("fallocate", errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        BlockIO(device).patch(FD, rows((0, 512, 0), (1024, 512, -1), (2048, 512, 512)), RAW)
    assert bytes(device.content) == expected(rows((0, 512, 0)))


def test_append_is_one_write() -> None:
    device = disk()
    BlockIO(device).append(FD, b"head", b"body of a record", 100)
    assert device.calls == [("pwritev", FD, [4, 16], 100)]
    assert bytes(device.content[100:120]) == b"headbody of a record"


@pytest.mark.parametrize(("head", "body"), [(b"", b"body"), (b"head", b""), (b"head", b"body")])
@pytest.mark.parametrize("most_bytes", [1, 3, 4, 5, 100])
def test_append_finishes_short_writes(head: bytes, body: bytes, most_bytes: int) -> None:
    device = disk()
    device.most_bytes = most_bytes
    BlockIO(device).append(FD, head, body, 10)
    assert bytes(device.content[10 : 10 + len(head + body) + 1]) == head + body + b"\xee"


def test_append_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to append"):
        BlockIO(disk()).append(FD, b"", b"", 0)


@pytest.mark.parametrize("error", ERRNOS)
def test_a_failed_append_is_the_callers(error: int) -> None:
    device = faulty()
    device.most_bytes = 3
    device.fail("pwritev", error)
    with pytest.raises(OSError) as raised:  # noqa: PT011 - errno is looked at
        BlockIO(device).append(FD, b"head", b"body", 0)
    assert raised.value.errno == error


BAD_ROWS = {
    "a negative offset": ((-1, 1, 0), "outside the disk"),
    "no length": ((0, 0, 0), "outside the disk"),
    "a negative length": ((0, -1, -1), "outside the disk"),
    "an end of 2^63": (((1 << 63) - 1, 1, -1), "outside the disk"),
    "behind the buffer": ((0, 1, len(RAW)), "outside the buffer"),
    "over the buffer's end": ((0, len(RAW), 1), "outside the buffer"),
    "an overflowing position": ((0, 1, (1 << 63) - 1), "outside the buffer"),
}


@pytest.mark.parametrize(("row", "problem"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_rows_are_refused_before_anything_is_written(row: tuple[int, int, int], problem: str) -> None:
    device = disk()
    with pytest.raises(ValueError, match=f"row 1 lies {problem}"):
        BlockIO(device).patch(FD, rows((0, 1, 0), row), RAW)
    assert device.calls == []


@pytest.mark.parametrize("verdict", [Opened.BAD_TAG, Opened.BAD_CODEC, Opened.BAD_DIGEST])
def test_a_row_that_did_not_open_is_refused(verdict: Opened) -> None:
    device = disk()
    opened = np.array([[0, 16, 0, Opened.OK], [16, 16, 16, verdict]], dtype=np.int64)
    with pytest.raises(ValueError, match="row 1 did not open"):
        BlockIO(device).patch(FD, opened, RAW)
    BlockIO(device).patch(FD, opened[opened[:, 3] == Opened.OK], RAW)
    assert device.calls == [("pwritev", FD, [16], 0)]


def test_other_shapes_and_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="rows are"):
        BlockIO(disk()).patch(FD, np.zeros((1, 2), dtype=np.int64), RAW)
    with pytest.raises(ValueError, match="3 is not a valid ZeroMode"):
        BlockIO(disk()).patch(FD, rows(), RAW, 3)  # type: ignore[arg-type]


def test_a_real_file(tmp_path: Path) -> None:
    path = tmp_path / "shadow"
    path.write_bytes(b"\xee" * DISK)
    wanted = rows((0, 512, 0), (512, 512, 1024), (2048, 1024, -1))
    fd = os.open(path, os.O_RDWR)
    try:
        io = BlockIO()
        patched = io.patch(fd, wanted, RAW)
        io.sync(fd)
        io.append(fd, b"head", b"body", DISK)
    finally:
        os.close(fd)
    assert path.read_bytes() == expected(wanted) + b"headbody"
    assert patched.zeroed_bytes == 1024


@pytest.mark.parametrize("mode", ZeroMode)
def test_zeros_on_a_real_file(tmp_path: Path, mode: ZeroMode) -> None:
    path = tmp_path / "shadow"
    path.write_bytes(b"\xee" * (3 << 16))
    fd = os.open(path, os.O_RDWR)
    try:
        BlockIO().patch(fd, rows((1 << 16, 1 << 16, -1)), b"", mode)
    finally:
        os.close(fd)
    assert path.read_bytes() == b"\xee" * (1 << 16) + bytes(1 << 16) + b"\xee" * (1 << 16)


def test_the_systems_errors_have_their_class(tmp_path: Path) -> None:
    path = tmp_path / "read-only"
    path.touch()
    fd = os.open(path, os.O_RDONLY)
    io = BlockIO()
    try:
        with pytest.raises(OSError, match="Bad file descriptor") as raised:
            io.append(fd, b"x", b"", 0)
        assert raised.value.errno == errno.EBADF
        with pytest.raises(OSError, match="Bad file descriptor"):
            io.patch(fd, rows((0, 512, -1)), b"")
    finally:
        os.close(fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        io.sync(fd)
