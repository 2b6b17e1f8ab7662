"""How many batches may be on their way to a connector: one budget for the node, shared fairly by its streams.

A credit is the right to send one batch of any size. Rules:

1. The batches granted and not yet durable never exceed the budget, nor a stream its own limit.
2. A free credit goes to the stream that holds the fewest, and among equals to the one that waited longest: so
   a stream without any is served before every stream that has one.
3. A stream's window starts at one batch and grows by one with each batch that becomes durable: a stream that
   sends little holds little.
"""

import threading
from collections.abc import Callable

from dmcore.wire.records import MAX_BATCH_BYTES

TOTAL_BYTES = 96 << 20
PER_STREAM_BYTES = 64 << 20


class CreditBudget:
    """The node's budget. Thread-safe; nothing waits in it: a stream is told by its `wake`."""

    def __init__(
        self,
        total_bytes: int = TOTAL_BYTES,
        per_stream_bytes: int = PER_STREAM_BYTES,
        batch_bytes: int = MAX_BATCH_BYTES,
    ) -> None:
        """Raises ValueError if not even one batch fits."""
        self.total = total_bytes // batch_bytes
        self.per_stream = per_stream_bytes // batch_bytes
        if not self.total or not self.per_stream:
            raise ValueError(f"no batch of {batch_bytes} bytes fits the credit budget")
        self._lock = threading.Lock()
        self._shares: list[CreditShare] = []
        self._held = 0

    @property
    def held(self) -> int:
        """The batches granted and not yet durable, of all streams."""
        return self._held

    def join(self, wake: Callable[[], None]) -> "CreditShare":
        """A new stream's share. `wake` is called, by any thread, when there is something to `take`."""
        with self._lock:
            share = CreditShare(self, wake)
            self._shares.append(share)
            granted = self._distribute()
        _wake(granted)
        return share

    def give_back(self, share: "CreditShare", batches: int) -> None:
        """See `CreditShare.give_back`."""
        with self._lock:
            if share not in self._shares:
                return
            share.returned(batches, self.per_stream)
            self._held -= batches
            self._last_in_line(share)
            granted = self._distribute()
        _wake(granted)

    def take(self, share: "CreditShare") -> int:
        """See `CreditShare.take`."""
        with self._lock:
            return share.taken()

    def leave(self, share: "CreditShare") -> None:
        """See `CreditShare.leave`."""
        with self._lock:
            if share not in self._shares:
                return
            self._shares.remove(share)
            self._held -= share.held
            share.ended()
            granted = self._distribute()
        _wake(granted)

    def _distribute(self) -> "list[CreditShare]":
        granted: list[CreditShare] = []
        while self._held < self.total:
            wanting = [share for share in self._shares if share.held < share.window]
            if not wanting:
                break
            share = min(wanting, key=lambda candidate: candidate.held)  # the first of equals: see the list's order
            self._last_in_line(share)
            share.grant()
            self._held += 1
            granted.append(share)
        return granted

    def _last_in_line(self, share: "CreditShare") -> None:
        self._shares.remove(share)
        self._shares.append(share)


class CreditShare:
    """One stream's part of the budget."""

    def __init__(self, budget: CreditBudget, wake: Callable[[], None]) -> None:
        """Use `CreditBudget.join`."""
        self.held = 0
        self.window = 1
        self.wake = wake
        self._budget = budget
        self._fresh = 0

    def take(self) -> int:
        """The credit granted since the last call, for the stream's next Ack or Grant."""
        return self._budget.take(self)

    def give_back(self, batches: int) -> None:
        """So many of this stream's batches have become durable. Nothing happens once it has left.

        Raises:
            ValueError: it does not hold so many.
        """
        self._budget.give_back(self, batches)

    def leave(self) -> None:
        """The stream has ended: everything it holds is free. Idempotent."""
        self._budget.leave(self)

    # The budget's, under its lock

    def grant(self) -> None:
        """One more."""
        self.held += 1
        self._fresh += 1

    def taken(self) -> int:
        """What `take` gives."""
        fresh, self._fresh = self._fresh, 0
        return fresh

    def ended(self) -> None:
        """Nothing is held any more."""
        self.held = self._fresh = 0

    def returned(self, batches: int, limit: int) -> None:
        """Fewer are held, and the window grows."""
        if not 0 <= batches <= self.held - self._fresh:
            raise ValueError(f"{batches} batches given back of {self.held - self._fresh} taken")
        self.held -= batches
        self.window = min(self.window + batches, limit)


def _wake(granted: list[CreditShare]) -> None:
    for share in set(granted):  # outside the lock: a wake may take locks of its own
        share.wake()
