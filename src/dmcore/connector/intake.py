"""What a stream has brought, on its way into the log: held back, in order, while there is no room on staging.

What is held was granted before and is in memory anyway; nothing more is granted for it, so the sender stops by itself.
Whoever frees room wakes the session, which tries again; room that nobody tells of is found by trying now and then.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from dmcore.seal.header import StreamHeader
from dmcore.shadow.errors import StagingFull
from dmcore.shadow.receiver import DiskReceiver
from dmcore.shadow.staging import StagingRoom
from dmcore.wire.transport import Clock

RETRY_S = 5.0
"""How often to try again without being woken."""


@dataclass(frozen=True)
class Feed:
    """Where a stream goes to."""

    receiver: DiskReceiver
    attempt: int
    wrapped_keys: bytes
    appended: Callable[[], None]
    """Called when there is something to sync."""
    go_direct: Callable[[], None]
    """Called when room begins to lack: the disk's log is to be redone meanwhile, which frees it."""


class Intake:
    """Belongs to its connection's thread."""

    def __init__(self, feed: Feed, room: StagingRoom, wake: Callable[[], None], clock: Clock) -> None:
        """`wake` is called by any thread, when there is more room."""
        self._feed, self._room, self._wake, self._clock = feed, room, wake, clock
        self._held: deque[StreamHeader | memoryview] = deque()
        self._since: float | None = None
        self._again = False

    @property
    def waiting(self) -> bool:
        """Whether something is held."""
        return bool(self._held)

    def put(self, brought: StreamHeader | memoryview) -> None:
        """A stream's header, or its next batch. Raises as `go_on`."""
        self._held.append(brought)
        self.go_on()

    def go_on(self) -> None:
        """Append what is held, as far as there is room.

        Raises:
            StagingFull: there was none for the whole time that may be waited.
            DmcoreError: the stream is over.
        """
        while self._held:
            try:
                self._append(self._held[0])
            except StagingFull:
                if not self._feed.receiver.waits or self._is_over():
                    raise
                self._again = not isinstance(self._held[0], StreamHeader)
                if self._since is not None:
                    return
                self._begin_to_wait()  # and try once more: what came free just before has woken nobody
                continue
            self._held.popleft()
            self.stop_waiting()

    def stop_waiting(self) -> None:
        """Do not be woken any more. Idempotent."""
        self._since, self._again = None, False
        self._room.waits_no_more(self._wake)

    def _append(self, brought: StreamHeader | memoryview) -> None:
        feed = self._feed
        if isinstance(brought, StreamHeader):
            feed.receiver.start(feed.attempt, brought, feed.wrapped_keys)
            return
        if self._again:
            feed.receiver.append_again(feed.attempt, brought)
        else:
            feed.receiver.append(feed.attempt, brought)
        feed.appended()

    def _is_over(self) -> bool:
        return self._since is not None and self._clock() - self._since >= self._room.wait_s

    def _begin_to_wait(self) -> None:
        self._since = self._clock()
        self._room.waits(self._wake)
        self._feed.go_direct()
