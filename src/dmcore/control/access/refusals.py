"""Which of an operator's refused attempts are told of in the audit log: nobody fills it by asking for the forbidden."""

import threading
from datetime import datetime, timedelta
from uuid import UUID

PERIOD = timedelta(hours=1)
AUDITED = 10
"""Of one token in one period, by one replica. Every refusal is in the log, however many there are."""
MAX_TOKENS = 1000
LOOKING = frozenset({"GET", "HEAD", "OPTIONS"})


class Refusals:
    """Counts them. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._told: dict[UUID, tuple[datetime, int]] = {}

    def is_audited(self, token: UUID, method: str, now: datetime) -> bool:
        """Whether this one is: an attempt to change something, one of the token's first of this hour."""
        if method in LOOKING:
            return False
        with self._lock:
            began, count = self._told.get(token, (now, 0))
            if not timedelta(0) <= now - began < PERIOD:
                began, count = now, 0
            self._told.pop(token, None)
            self._told[token] = began, count + 1  # at the end of the line
            if len(self._told) > MAX_TOKENS:
                del self._told[next(iter(self._told))]
        return count < AUDITED
