"""A receiver over checkpoints and without room: what lies before a checkpoint still counts, what waits is not lost."""

import errno
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.shadow import allocating, segments
from dmcore.shadow.checkpoint import CHECKPOINT_FILE, Checkpoint, load_checkpoint
from dmcore.shadow.errors import LogCorrupt, StagingFull, StateUnreadable, StreamRefused
from dmcore.shadow.records import RecordType, StreamRecord
from dmcore.shadow.segments import LogReader, SegmentStart
from dmcore.shadow.storage import Storage
from tests.shadow.group_lab import BLOCK, Sender, coverage_of
from tests.shadow.test_receiver import HALF, REST, SIZE, WHOLE, Receiving

QUARTER = ex.from_pairs([(0, SIZE // 4)])
SECOND_QUARTER = ex.from_pairs([(SIZE // 4, SIZE // 4)])


@pytest.fixture
def receiving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiving]:
    """One whose segments hold two or three batches."""
    monkeypatch.setattr(segments, "SEGMENT_BYTES", 5 * BLOCK)
    monkeypatch.setattr(allocating, "FIRST_BYTES", BLOCK)
    held = Receiving(tmp_path)
    yield held
    held.shadow.close()
    held.lab.close()


def send(sender: Sender, extents: Extents) -> None:
    sender.send(extents, batch_blocks=1)


def checkpoint_at(receiving: Receiving, at: SegmentStart, covered: Extents) -> Checkpoint:
    """What a redo would have saved: all that the records before it have said."""
    reader = LogReader(Storage(), receiving.log_folder)
    salts, attempt = set(), 0
    for record, body in reader.records(at.position):
        if record.type is RecordType.STREAM:
            header = StreamRecord.unpack(bytes(body)).header
            salts.add(header.salt)
            attempt = max(attempt, header.attempt)
    return Checkpoint(*at, attempt, frozenset(salts), 0, covered)


def closed_and_reclaimed(receiving: Receiving, covered: Extents) -> Checkpoint:
    """Everything so far is behind a checkpoint, and gone."""
    at = receiving.receiver.close_segment()
    assert at is not None
    checkpoint = checkpoint_at(receiving, at, covered)
    receiving.receiver.save_checkpoint(checkpoint)
    assert segments.segment_files(Storage(), receiving.log_folder) == []
    return checkpoint


def test_the_durable_length_is_told_while_the_stream_goes_on(receiving: Receiving) -> None:
    sender = receiving.started()
    assert receiving.receiver.durable_log() == 0
    send(sender, QUARTER)
    assert receiving.receiver.durable_log() == length_on_disk(receiving)
    sender.append(sender.seal(sender.batches(REST, 1)[0]).used)
    assert 0 < receiving.receiver.durable_log() < length_on_disk(receiving)
    sender.receiver.sync(sender.attempt)
    assert receiving.receiver.durable_log() == length_on_disk(receiving)


def length_on_disk(receiving: Receiving) -> int:
    reader = LogReader(Storage(), receiving.log_folder)
    return max(record.end for record, _ in reader.records())


def test_the_durable_length_is_found_out_after_a_restart(receiving: Receiving) -> None:
    send(receiving.started(), HALF)
    before = receiving.receiver.durable_log()
    receiving.restart()
    assert receiving.receiver.durable_log() == before
    assert receiving.durable() == coverage_of(receiving.disk, HALF)


def test_a_disk_that_nobody_opened_has_no_durable_log(receiving: Receiving) -> None:
    assert receiving.receiver.durable_log() == 0
    assert receiving.receiver.close_segment() is None
    assert not receiving.log_folder.exists()


def test_a_sealed_log_is_left_alone(receiving: Receiving) -> None:
    send(receiving.started(), HALF)
    receiver = receiving.receiver
    length = receiver.durable_log()
    receiver.retire()
    held = {path: path.read_bytes() for path in receiving.log_folder.iterdir()}
    assert receiver.durable_log() == length
    assert {path: path.read_bytes() for path in receiving.log_folder.iterdir()} == held


def test_what_lies_before_a_checkpoint_is_durable(receiving: Receiving) -> None:
    send(receiving.started(), QUARTER)
    closed_and_reclaimed(receiving, QUARTER)
    assert receiving.durable() == coverage_of(receiving.disk, QUARTER)
    receiving.restart()
    assert receiving.durable() == coverage_of(receiving.disk, QUARTER)
    again = receiving.started()
    send(again, SECOND_QUARTER)
    receiving.restart()
    assert receiving.durable() == coverage_of(receiving.disk, HALF)


def test_a_stream_goes_on_over_a_checkpoint(receiving: Receiving) -> None:
    """And the log is read from the middle of it after a restart."""
    sender = receiving.started()
    send(sender, QUARTER)
    closed_and_reclaimed(receiving, QUARTER)
    send(sender, SECOND_QUARTER)
    sender.finish()
    receiving.restart()
    assert receiving.durable() == coverage_of(receiving.disk, HALF)
    log = LogReader(Storage(), receiving.log_folder, load_checkpoint(Storage(), receiving.log_folder))
    _, body = next(log.records())
    assert StreamRecord.unpack(bytes(body)).next_batch > 0


def test_attempts_and_salts_before_a_checkpoint_are_remembered(receiving: Receiving) -> None:
    sender = receiving.started()
    send(sender, QUARTER)
    salt, attempt = sender.writer.header.salt, sender.attempt
    closed_and_reclaimed(receiving, QUARTER)
    receiving.restart()
    again = receiving.sender()
    assert again.attempt > attempt
    with pytest.raises(StreamRefused, match="salt was seen"):
        again.receiver.start(again.attempt, replace(again.writer.header, salt=salt), b"")


def test_a_block_before_a_checkpoint_is_refused_a_second_time(receiving: Receiving) -> None:
    send(receiving.started(), QUARTER)
    closed_and_reclaimed(receiving, QUARTER)
    receiving.restart()
    with pytest.raises(Exception, match="a second time"):
        send(receiving.started(), ex.from_pairs([(0, BLOCK)]))


def test_sealing_counts_what_lies_before_a_checkpoint(receiving: Receiving) -> None:
    send(receiving.started(), QUARTER)
    length = receiving.receiver.durable_log()
    checkpoint = closed_and_reclaimed(receiving, QUARTER)
    receiving.restart()
    coverage, log_bytes, chain = receiving.receiver.seal()
    assert (ex.coverage_hash(coverage), log_bytes) == (coverage_of(receiving.disk, QUARTER), length)
    assert (log_bytes, chain) == (checkpoint.position, checkpoint.chain)


def test_segments_before_a_checkpoint_in_the_middle_are_freed(receiving: Receiving) -> None:
    """The stream and the segments behind it are left alone."""
    sender = receiving.started()
    send(sender, HALF)
    reader = LogReader(Storage(), receiving.log_folder)
    starts = {at.segment: at for at in (reader.at for _ in reader.records())}
    before = batches_before(receiving, starts[2].position)
    covered = ex.from_pairs([(0, before * BLOCK)])
    receiving.receiver.save_checkpoint(checkpoint_at(receiving, starts[2], covered))
    assert [number for number, _ in segments.segment_files(Storage(), receiving.log_folder)] == list(starts)[2:]
    send(sender, REST)
    receiving.restart()
    assert receiving.durable() == coverage_of(receiving.disk, WHOLE)


def batches_before(receiving: Receiving, position: int) -> int:
    """How many blocks were logged before it: each is a batch of its own, behind the OPEN."""
    reader = LogReader(Storage(), receiving.log_folder)
    return sum(1 for record, _ in reader.records(position) if record.type is RecordType.BATCH) - 1


def test_a_damaged_checkpoint_stops_the_disk(receiving: Receiving) -> None:
    send(receiving.started(), QUARTER)
    closed_and_reclaimed(receiving, QUARTER)
    receiving.restart()
    path = receiving.log_folder / CHECKPOINT_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(StateUnreadable):
        receiving.durable()
    with pytest.raises(StateUnreadable):
        receiving.receiver.durable_log()


def test_damage_behind_a_checkpoint_is_found(receiving: Receiving) -> None:
    sender = receiving.started()
    send(sender, QUARTER)
    checkpoint = closed_and_reclaimed(receiving, QUARTER)
    send(sender, SECOND_QUARTER)
    receiving.restart()
    path = segments.segment_path(receiving.log_folder, checkpoint.segment)
    held = bytearray(path.read_bytes())
    held[100] ^= 1
    path.write_bytes(held)
    with pytest.raises(LogCorrupt, match=f"damaged at {checkpoint.position}"):
        receiving.durable()


# No room


class Full:
    """A room in which there is none, as long as it is so."""

    def __init__(self, receiving: Receiving) -> None:
        self.room = receiving.shadow._kit.room
        self.room._quota_bytes = 0

    def end(self) -> None:
        self.room._quota_bytes = None


def test_a_batch_without_room_waits_and_is_appended_later(receiving: Receiving) -> None:
    sender = receiving.started()
    full = Full(receiving)
    sent, waiting = fill(sender)
    waited = [sender.receiver.waits]
    with pytest.raises(StagingFull):
        sender.receiver.append_again(sender.attempt, waiting)
    full.end()
    number = sender.receiver.append_again(sender.attempt, waiting)
    assert [*waited, sender.receiver.waits] == [True, False]
    assert sender.receiver.sync(sender.attempt) == number
    with pytest.raises(StreamRefused, match="no batch waits"):
        sender.receiver.append_again(sender.attempt, waiting)
    send(sender, ex.subtract(WHOLE, ex.from_pairs([(0, (sent + 1) * BLOCK)])))
    receiving.finish()


def fill(sender: Sender) -> tuple[int, bytes]:
    """Append blocks until one finds no room. Returns how many did, and that one's batch."""
    for number, blocks in enumerate(sender.batches(WHOLE, 1)):
        used = sender.seal(blocks).used
        try:
            sender.append(used)
        except StagingFull:
            return number, bytes(sender.out[:used])
    raise AssertionError


def test_what_waited_when_the_stream_ended_is_sent_again(receiving: Receiving) -> None:
    """It was verified and counted, and never reached the log: it is not called durable, nor refused as repeated."""
    sender = receiving.started()
    full = Full(receiving)
    sent, _ = fill(sender)
    again = receiving.sender()
    assert not again.receiver.waits
    assert ex.total_bytes(again.receiver.durable()) == sent * BLOCK
    full.end()
    again.start()
    send(again, ex.subtract(WHOLE, again.receiver.durable()))
    receiving.finish()


def test_a_stream_header_without_room_is_said_again(receiving: Receiving) -> None:
    sender = receiving.sender()
    full = Full(receiving)
    header = sender.writer.header
    for _ in range(2):
        with pytest.raises(StagingFull):
            sender.receiver.start(sender.attempt, header, b"")
        assert sender.receiver.waits
    full.end()
    sender.receiver.start(sender.attempt, header, b"")
    assert not sender.receiver.waits
    sender.append(sender.writer.open(sender.out))
    receiving.finish()


def test_room_that_a_checkpoint_frees_is_enough_to_go_on(receiving: Receiving) -> None:
    """A room for one segment: each batch that waits gets it once all before it was redone."""
    sender = receiving.started()
    room = receiving.shadow._kit.room
    room._quota_bytes = room.used_bytes + 3 * BLOCK
    for number, blocks in enumerate(sender.batches(WHOLE, 1)):
        used = sender.seal(blocks).used
        try:
            sender.append(used)
        except StagingFull:
            sender.receiver.sync(sender.attempt)
            closed_and_reclaimed(receiving, ex.from_pairs([(0, number * BLOCK)]))
            sender.receiver.append_again(sender.attempt, bytes(sender.out[:used]))
    sender.receiver.sync(sender.attempt)
    assert receiving.durable() == coverage_of(receiving.disk, WHOLE)
    assert load_checkpoint(Storage(), receiving.log_folder) is not None


@pytest.mark.parametrize("call", ["fdatasync", "pwritev"])
def test_no_space_that_breaks_the_log_is_not_waited_for(receiving: Receiving, call: str) -> None:
    sender = receiving.started()
    send(sender, QUARTER)
    receiving.faults.armed = (call, errno.ENOSPC)
    with pytest.raises(StagingFull):
        send(sender, ex.from_pairs([(SIZE // 2, BLOCK)]))
    assert not sender.receiver.waits
    receiving.finish()


def test_preparing_belongs_to_the_attempt(receiving: Receiving) -> None:
    sender = receiving.started()
    sender.receiver.prepare(sender.attempt)
    receiving.sender()
    with pytest.raises(StreamRefused):
        sender.receiver.prepare(sender.attempt)


def test_the_room_of_a_group_is_known_after_a_restart(tmp_path: Path, receiving: Receiving) -> None:
    send(receiving.started(), HALF)
    receiving.restart()
    used = receiving.shadow._kit.room.used_bytes
    assert used == Storage().used_bytes(tmp_path / "staging") > SIZE // 4
