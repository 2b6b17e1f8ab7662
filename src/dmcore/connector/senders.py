"""Which connection sends a disk now. Opening a disk ends its older connection, whose credit others need."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from dmcore.model.ids import DiskId, GroupId
from dmcore.wire.connection import Connection

Key = tuple[GroupId, DiskId]


class Senders:
    """Thread-safe. Without it a connection whose appliance is gone would hold its credit until it is found silent."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._newest: dict[Key, tuple[int, Connection]] = {}

    @contextmanager
    def sending(self, group: GroupId, disk: DiskId, attempt: int, connection: Connection) -> Iterator[None]:
        """While this lasts, the connection is the disk's sender, unless a later attempt's is already or becomes it."""
        key, own = (group, disk), (attempt, connection)
        with self._lock:
            held = self._newest.get(key, own)
            self._newest[key] = max(held, own, key=lambda each: each[0])
        if held is not own:
            min(held, own, key=lambda each: each[0])[1].cancel("another attempt has opened its disk")
        try:
            yield
        finally:
            with self._lock:
                if self._newest.get(key) is own:
                    del self._newest[key]
