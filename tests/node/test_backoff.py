import random

from dmcore.node.backoff import Backoff


def test_doubles_up_to_a_cap_and_never_all_at_once() -> None:
    backoff = Backoff(first_s=1, cap_s=8, chance=random.Random(1))
    waits = [backoff.next_s() for _ in range(6)]
    for wait, whole in zip(waits, [1, 2, 4, 8, 8, 8], strict=True):
        assert whole / 2 <= wait <= whole
    assert waits[3] != waits[4]


def test_begins_anew_when_it_worked() -> None:
    backoff = Backoff(first_s=1, cap_s=1000)
    for _ in range(2000):
        backoff.next_s()
    backoff.reset()
    assert backoff.next_s() <= 1
