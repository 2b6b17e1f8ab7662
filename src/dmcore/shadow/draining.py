"""Redoing a direct disk's log while it is received: the segments that are whole and durable, a round at a time."""

from dmcore.model.ids import DiskId
from dmcore.shadow import forward, records
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.records import HEADER_BYTES
from dmcore.shadow.redo import LogRest, Progress
from dmcore.shadow.segments import opened, segment_files
from dmcore.shadow.state import Cycle
from dmcore.shadow.storage import Storage


def drain(kit: GroupKit, cycle: Cycle, disk: DiskId, receiver: DiskReceiver, progress: Progress) -> bool:
    """Redo a round of what is durable, and free its segments. Returns whether there was one.

    The receiver goes on meanwhile: its lock is held for a moment at the beginning and at the end.

    Raises:
        IntegrityError: the log is damaged. TargetError, OSError: call it again.
    """
    durable_to = receiver.durable_log()
    rest = forward.rest_of(kit, cycle, disk)
    upto = last_boundary(kit.storage, rest, durable_to)
    if upto is None and kit.room.short:
        closed = receiver.close_segment()
        upto = closed.position if closed is not None else None
    if upto is None or upto <= rest.log.at.position:
        return False
    with forward.redo_of(kit, cycle, disk) as redo:
        redo.drain(rest, upto, receiver.save_checkpoint, progress)
    return True


def last_boundary(storage: Storage, rest: LogRest, durable_to: int) -> int | None:
    """Where the last segment begins whose first record is durable, behind the checkpoint; None: nowhere.

    What a segment holds that was used before is of another log, or lies before the checkpoint.
    """
    at = rest.log.at
    for number, path in reversed(segment_files(storage, rest.folder)):
        if number <= at.segment:
            return None
        with opened(storage, path) as fd:
            header = bytearray(HEADER_BYTES)
            storage.read_into(fd, 0, header)
        record = records.unpack(bytes(header))
        if record and record.salt == at.salt and at.position < record.position and record.end <= durable_to:
            return record.position
    return None
