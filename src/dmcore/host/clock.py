"""The wall clock, passed in so that tests need not wait."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]
"""Now, with a time zone."""


def utc_now() -> datetime:
    """The machine's clock."""
    return datetime.now(UTC)
