from datetime import UTC

from dmcore.host.clock import utc_now


def test_has_a_zone() -> None:
    assert utc_now().tzinfo is UTC
