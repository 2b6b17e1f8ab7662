import threading

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dmcore.wire.credit import CreditBudget, CreditShare

BATCH = 10


def budget(total: int, per_stream: int) -> CreditBudget:
    return CreditBudget(total * BATCH + 9, per_stream * BATCH + 9, BATCH)


def nothing() -> None:
    pass


def test_the_default_is_eleven_batches_and_seven_for_a_stream() -> None:
    made = CreditBudget()
    assert (made.total, made.per_stream) == (11, 7)


@pytest.mark.parametrize(("total", "per_stream"), [(9, 100), (100, 9)])
def test_a_budget_without_room_for_a_batch_is_refused(total: int, per_stream: int) -> None:
    with pytest.raises(ValueError, match="no batch"):
        CreditBudget(total, per_stream, BATCH)


def test_a_stream_starts_with_one_batch_and_grows_to_its_limit() -> None:
    share = budget(10, 3).join(nothing)
    assert share.take() == 1
    assert share.take() == 0
    share.give_back(1)
    assert share.take() == 2
    share.give_back(2)
    assert share.take() == 3
    share.give_back(3)
    assert share.take() == 3


def test_a_free_credit_goes_to_a_stream_without_any() -> None:
    whole = budget(2, 2)
    first, second, third = (whole.join(nothing) for _ in range(3))
    assert [share.take() for share in (first, second, third)] == [1, 1, 0]
    first.give_back(1)
    assert [share.take() for share in (first, second, third)] == [0, 0, 1]


def test_waiting_streams_are_served_in_turn() -> None:
    whole = budget(1, 1)
    shares = [whole.join(nothing) for _ in range(3)]
    served = []
    for _ in range(6):
        holder = next(share for share in shares if share.take())
        served.append(shares.index(holder))
        holder.give_back(1)
    assert served == [0, 1, 2, 0, 1, 2]


def test_a_stream_that_ends_returns_all() -> None:
    woken = threading.Event()
    whole = budget(1, 1)
    first = whole.join(nothing)
    second = whole.join(woken.set)
    assert not woken.is_set()
    first.leave()
    first.leave()
    assert woken.is_set()
    assert second.take() == 1
    first.give_back(1)  # the log's thread may be late
    assert first.take() == 0
    assert whole.held == 1


def test_a_stream_cannot_return_what_it_did_not_take() -> None:
    share = budget(2, 2).join(nothing)
    with pytest.raises(ValueError, match="1 batches given back of 0"):
        share.give_back(1)
    share.take()
    with pytest.raises(ValueError, match="2 batches"):
        share.give_back(2)


def test_streams_of_many_threads_share_one_budget() -> None:
    whole = budget(3, 2)
    most: list[int] = []

    def stream() -> None:
        granted = threading.Event()
        share = whole.join(granted.set)
        for _ in range(50):
            while not (taken := share.take()):
                assert granted.wait(10)
                granted.clear()
            most.append(whole.held)
            share.give_back(taken)
        share.leave()

    threads = [threading.Thread(target=stream) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert max(most) <= 3
    assert whole.held == 0


class Streams(RuleBasedStateMachine):
    """Any order of joining, taking, returning and leaving."""

    def __init__(self) -> None:
        super().__init__()
        self.budget = budget(5, 3)
        self.taken: dict[CreditShare, int] = {}
        self.waited: dict[CreditShare, int] = {}

    @precondition(lambda self: len(self.taken) < 8)
    @rule()
    def join(self) -> None:
        share = self.budget.join(nothing)
        self.taken[share], self.waited[share] = 0, 0

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        share = data.draw(st.sampled_from(list(self.taken)))
        self.taken[share] += share.take()

    @precondition(lambda self: any(self.taken.values()))
    @rule(data=st.data())
    def give_back(self, data: st.DataObject) -> None:
        share = data.draw(st.sampled_from([share for share, taken in self.taken.items() if taken]))
        waiting = [other for other in self.taken if not other.held]
        share.give_back(1)
        self.taken[share] -= 1
        for other in waiting:
            self.waited[other] = 0 if other.held else self.waited[other] + 1

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        share = data.draw(st.sampled_from(list(self.taken)))
        share.leave()
        del self.taken[share], self.waited[share]

    @invariant()
    def nobody_is_over_a_limit(self) -> None:
        assert self.budget.held == sum(share.held for share in self.taken) <= self.budget.total
        assert all(self.taken[share] <= share.held <= share.window <= 3 for share in self.taken)

    @invariant()
    def nothing_is_free_while_somebody_wants_it(self) -> None:
        if self.budget.held < self.budget.total:
            assert all(share.held == share.window for share in self.taken)

    @invariant()
    def nobody_starves(self) -> None:
        assert all(waits < 8 for waits in self.waited.values())


TestStreams = Streams.TestCase
TestStreams.settings = settings(max_examples=40, stateful_step_count=40)
