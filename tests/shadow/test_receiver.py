"""Receiving one disk: who may send, what is durable after a break, and that a log that failed is read again."""

import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from dmcore.blocks import extents as ex
from dmcore.model.ids import PlanId, image_of
from dmcore.model.phase import Phase
from dmcore.native.errors import FrameRefused
from dmcore.native.patching import BlockIO
from dmcore.seal.errors import StreamEnded, WrongKey
from dmcore.shadow.errors import BlockRepeated, LogCorrupt, LogPoisoned, StagingFull, StreamRefused
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.segments import segment_path
from dmcore.shadow.storage import Storage
from tests.shadow.faults import SystemCalls, Trigger, open_files
from tests.shadow.group_lab import (
    BLOCK,
    DISK_A,
    DISK_B,
    GROUP,
    GroupLab,
    Sender,
    content,
    coverage_of,
    cycle_id,
    roll_forward,
    send_disk,
)

SIZE = 24 * BLOCK
HALF = ex.from_pairs([(0, SIZE // 2)])
REST = ex.from_pairs([(SIZE // 2, SIZE // 2)])
WHOLE = ex.whole(SIZE)


class Faults(SystemCalls):
    """Fails the next call of a name, once, with an errno."""

    def __init__(self) -> None:
        super().__init__(Trigger(None, lambda _: None))
        self.armed: tuple[str, int] | None = None

    def _reach(self, what: str) -> None:
        if self.armed is not None and self.armed[0] == what:
            code, self.armed = self.armed[1], None
            raise OSError(code, os.strerror(code))

    def pwritev(self, fd: int, buffers: object, offset: int) -> int:
        self._reach("pwritev")
        return super().pwritev(fd, buffers, offset)  # type: ignore[arg-type]

    def fdatasync(self, fd: int) -> None:
        self._reach("fdatasync")
        super().fdatasync(fd)


class Receiving:
    """A seed that is being received."""

    def __init__(self, root: Path) -> None:
        self.faults = Faults()
        self.lab = GroupLab(root, Storage(BlockIO(self.faults)))
        self.disk = content(1, SIZE)
        self.shadow = self.lab.open()
        self.cycle = self.lab.plan(self.shadow, 1, {DISK_A: self.disk})
        self.shadow.begin(self.cycle)

    def sender(self) -> Sender:
        return Sender(self.shadow, self.cycle, DISK_A, self.disk)

    def started(self) -> Sender:
        sender = self.sender()
        sender.start()
        return sender

    def durable(self) -> bytes:
        receiver, _ = self.shadow.open(self.cycle.id, self.cycle.epoch, DISK_A)
        return ex.coverage_hash(receiver.durable())

    @property
    def receiver(self) -> DiskReceiver:
        return self.shadow._receivers.get(self.cycle.id, DISK_A)

    def restart(self) -> None:
        self.shadow.close()
        self.shadow = self.lab.open()

    def finish(self) -> None:
        """Send what is missing; the point is what the source held."""
        send_disk(self.shadow, self.cycle, DISK_A, self.disk, WHOLE)
        self.shadow.commit(self.cycle.id, self.cycle.epoch, {DISK_A: coverage_of(self.disk, WHOLE)})
        assert roll_forward(self.shadow) is Phase.RECLAIMED

    @property
    def log_folder(self) -> Path:
        return self.lab.root / "staging" / str(GROUP) / str(self.cycle.id) / str(DISK_A)


@pytest.fixture
def receiving(tmp_path: Path) -> Iterator[Receiving]:
    held = Receiving(tmp_path)
    yield held
    held.shadow.close()
    held.lab.close()


# What is durable


def test_only_what_was_synced_is_durable(receiving: Receiving) -> None:
    sender = receiving.started()
    blocks = sender.batches(HALF, 3)
    sender.append(sender.seal(blocks[0]).used)
    assert not len(sender.receiver.durable())
    assert sender.receiver.sync(sender.attempt) == 1
    assert sender.receiver.durable().tolist() == [[0, 3 * BLOCK]]
    assert sender.receiver.sync(sender.attempt) is None


def test_opening_again_syncs_what_was_appended(receiving: Receiving) -> None:
    sender = receiving.started()
    for blocks in sender.batches(HALF, 3):
        sender.append(sender.seal(blocks).used)
    assert receiving.durable() == coverage_of(receiving.disk, HALF)


def test_a_restart_reads_back_what_is_durable(receiving: Receiving) -> None:
    receiving.started().send(HALF)
    receiving.restart()
    assert receiving.durable() == coverage_of(receiving.disk, HALF)
    receiving.finish()


@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
def test_after_a_failed_call_the_log_is_read_again(receiving: Receiving, call: str) -> None:
    """A batch whose sync failed is in the file: it counts only once another sync has said so."""
    sender = receiving.started()
    sender.send(HALF)
    receiving.faults.armed = (call, errno.EIO)
    with pytest.raises(LogPoisoned):
        sender.send(ex.from_pairs([(SIZE // 2, 3 * BLOCK)]))
    for again in (sender.receiver.sync, lambda attempt: sender.receiver.append(attempt, b"")):
        with pytest.raises((LogPoisoned, FrameRefused)):
            again(sender.attempt)
    assert ex.coverage_hash(sender.receiver.durable()) == coverage_of(receiving.disk, HALF)
    read_back = HALF if call == "pwritev" else ex.from_pairs([(0, SIZE // 2 + 3 * BLOCK)])
    assert receiving.durable() == coverage_of(receiving.disk, read_back)
    receiving.finish()


def test_a_sync_that_fails_at_open_leaves_nothing_open_and_the_next_open_goes_on(receiving: Receiving) -> None:
    receiving.started().send(HALF)
    receiving.restart()
    files = open_files()
    receiving.faults.armed = ("fdatasync", errno.EIO)
    with pytest.raises(LogPoisoned):
        receiving.durable()
    assert open_files() == files
    assert receiving.durable() == coverage_of(receiving.disk, HALF)
    receiving.finish()


def test_no_space_is_an_error_and_what_was_durable_stays(receiving: Receiving) -> None:
    sender = receiving.started()
    sender.send(HALF)
    receiving.faults.armed = ("pwritev", errno.ENOSPC)
    with pytest.raises(StagingFull):
        sender.send(REST)
    assert receiving.durable() == coverage_of(receiving.disk, HALF)
    receiving.finish()


def test_damage_where_it_was_acknowledged_stops_the_disk(receiving: Receiving) -> None:
    receiving.started().send(WHOLE)
    receiving.restart()
    path = segment_path(receiving.log_folder, 0)
    damaged = bytearray(path.read_bytes())
    damaged[700] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(LogCorrupt, match=str(DISK_A)):
        receiving.durable()
    receiving.shadow.drop("an operator looked", lost=True)
    roll_forward(receiving.shadow)
    assert not receiving.log_folder.exists()


def test_sealing_a_disk_that_nobody_opened_makes_no_log(receiving: Receiving) -> None:
    receiver = receiving.receiver
    coverage, log_bytes, chain = receiver.seal()
    assert (len(coverage), log_bytes, chain) == (0, 0, 0)
    assert not receiving.log_folder.exists()


def test_sealing_after_a_restart_reads_the_log(receiving: Receiving) -> None:
    receiving.started().send(WHOLE)
    before = receiving.receiver.seal()
    receiving.restart()
    after = receiving.receiver.seal()
    assert (ex.coverage_hash(after[0]), *after[1:]) == (ex.coverage_hash(before[0]), *before[1:])


# Who may send


def test_attempts_grow_over_a_restart(receiving: Receiving) -> None:
    first, second = receiving.started(), receiving.started()
    assert second.attempt > first.attempt
    receiving.restart()
    third = receiving.started()
    assert third.attempt > second.attempt
    receiving.restart()
    assert receiving.sender().attempt > third.attempt


def test_an_older_attempt_is_refused_everything(receiving: Receiving) -> None:
    older = receiving.started()
    older.send(HALF)
    newer = receiving.started()
    calls: list[Callable[[], object]] = [
        lambda: older.receiver.sync(older.attempt),
        lambda: older.receiver.append(older.attempt, b""),
        lambda: older.receiver.start(older.attempt, older.writer.header, b""),
    ]
    for call in calls:
        with pytest.raises(StreamRefused, match="another attempt"):
            call()
    newer.send(REST)
    receiving.finish()


def test_a_salt_is_remembered_over_a_restart(receiving: Receiving) -> None:
    sender = receiving.started()
    receiving.receiver.sync(sender.attempt)
    salt = sender.writer.header.salt
    receiving.restart()
    again = receiving.sender()
    with pytest.raises(StreamRefused, match="salt was seen"):
        again.receiver.start(again.attempt, replace(again.writer.header, salt=salt), b"")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"plan": PlanId(UUID(int=77))}, "another plan, disk, cycle or attempt"),
        ({"disk": DISK_B}, "another plan, disk, cycle or attempt"),
        ({"cycle": cycle_id(9)}, "another plan, disk, cycle or attempt"),
        ({"epoch": 99}, "another plan, disk, cycle or attempt"),
        ({"attempt": 99}, "another plan, disk, cycle or attempt"),
        ({"disk_bytes": SIZE + 512}, "another size, base image or key version"),
        ({"block_bytes": 2 * BLOCK}, "another size, base image or key version"),
        ({"base_image": image_of(cycle_id(9))}, "another size, base image or key version"),
        ({"dek_version": 2}, "another size, base image or key version"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_header_of_something_else_is_refused(receiving: Receiving, changes: dict[str, Any], named: str) -> None:
    sender = receiving.sender()
    with pytest.raises(StreamRefused, match=named):
        sender.receiver.start(sender.attempt, replace(sender.writer.header, **changes), b"")
    sender.start()


def test_another_key_is_refused_before_anything_is_logged(receiving: Receiving) -> None:
    sender = receiving.sender()
    forged, _ = sender.writer.header.fresh(bytes(32))
    with pytest.raises(WrongKey):
        sender.receiver.start(sender.attempt, forged, b"")
    assert not segment_path(receiving.log_folder, 0).exists()


def test_a_refused_batch_ends_the_stream_and_is_not_logged(receiving: Receiving) -> None:
    sender = receiving.started()
    sender.send(HALF)
    before = segment_path(receiving.log_folder, 0).stat().st_size
    used = sender.seal(sender.batches(REST, 3)[0]).used
    sender.out[used // 2] ^= 1
    with pytest.raises(FrameRefused):
        sender.append(used)
    sender.out[used // 2] ^= 1
    with pytest.raises(StreamEnded):
        sender.append(used)
    assert segment_path(receiving.log_folder, 0).stat().st_size == before
    receiving.finish()


def test_a_repeated_block_ends_the_stream(receiving: Receiving) -> None:
    sender = receiving.started()
    sender.send(HALF)
    with pytest.raises(BlockRepeated, match="offset 0"):
        sender.send(ex.from_pairs([(0, BLOCK)]))
    with pytest.raises(StreamEnded):
        sender.send(REST)
    receiving.finish()


def test_nobody_opens_a_log_that_is_sealed(receiving: Receiving) -> None:
    """A sender was let in just before `commit` sealed the cycle: not one byte more may reach the log."""
    receiver, _ = receiving.shadow.open(receiving.cycle.id, receiving.cycle.epoch, DISK_A)
    receiving.started().send(WHOLE)
    receiving.shadow.commit(receiving.cycle.id, receiving.cycle.epoch, {DISK_A: coverage_of(receiving.disk, WHOLE)})
    with pytest.raises(StreamRefused, match="not receiving any more"):
        receiver.open(receiving.cycle.epoch)
    assert roll_forward(receiving.shadow) is Phase.RECLAIMED
    assert not receiving.log_folder.exists()
