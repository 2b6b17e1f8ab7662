"""Making a log ready to go on: nothing is left behind its good records, and they are durable."""

from pathlib import Path

from dmcore.shadow.allocating import SegmentFile
from dmcore.shadow.logsalt import make_salt
from dmcore.shadow.segments import LogEnd
from dmcore.shadow.storage import Storage


def cut(storage: Storage, folder: Path, end: LogEnd) -> tuple[bytes, SegmentFile | None]:
    """Leave nothing behind `end`, and open the segment it lies in. Returns the log's salt and that segment, if any.

    The last segments go first, so that a crash here leaves no gap. Those before the open one are synced: whoever wrote
    them may have been killed before its own sync, and the next sync will cover only the open one. What was allocated
    ahead goes too, and with it whatever an unsynced write has left there.

    Raises:
        OSError: scan the log and try again.
    """
    storage.make_dir(folder)
    salt = end.salt or make_salt(storage, folder)
    storage.sync_dir(folder)  # a killed process may have renamed the salt, and no segment may be there without it
    for _, path in reversed(end.beyond):
        storage.unlink(path)
    if not end.segments:
        return salt, None
    *finished, last = end.segments
    for segment in finished:
        storage.sync_file(segment.path)
    kept = end.position - last.start
    if last.size > kept:
        storage.truncate(last.path, kept)
    return salt, SegmentFile(last.number, storage.open(last.path), last.start, kept)
