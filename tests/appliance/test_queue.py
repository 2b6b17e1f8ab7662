"""What passes between stages: in order, bounded, and nobody is left waiting."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from dmcore.appliance.errors import Cancelled
from dmcore.appliance.queue import PAGE_BYTES, BufferPool, ClosableQueue, Loan, aligned_buffer

TIMEOUT_S = 20.0


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def waiting(condition: threading.Condition, count: int) -> None:
    """Return when so many threads wait on it."""
    while True:
        with condition:
            if len(condition._waiters) == count:  # type: ignore[attr-defined]
                return


class TestQueue:
    def test_first_in_first_out(self) -> None:
        queue: ClosableQueue[int] = ClosableQueue()
        for number in range(5):
            queue.put(number)
        queue.finish()
        assert list(queue) == [0, 1, 2, 3, 4]
        assert queue.get() is None  # and stays finished

    def test_get_waits_for_an_item(self, threads: ThreadPoolExecutor) -> None:
        queue: ClosableQueue[int] = ClosableQueue()
        got = threads.submit(queue.get)
        waiting(queue._changed, 1)
        queue.put(7)
        assert got.result(TIMEOUT_S) == 7

    def test_finish_wakes_everybody(self, threads: ThreadPoolExecutor) -> None:
        queue: ClosableQueue[int] = ClosableQueue()
        gots = [threads.submit(queue.get) for _ in range(4)]
        waiting(queue._changed, 4)
        queue.finish()
        assert [got.result(TIMEOUT_S) for got in gots] == [None] * 4

    def test_cancel_wakes_everybody_and_sticks(self, threads: ThreadPoolExecutor) -> None:
        queue: ClosableQueue[int] = ClosableQueue()
        gots = [threads.submit(queue.get) for _ in range(4)]
        waiting(queue._changed, 4)
        queue.cancel("the first reason")
        queue.cancel("a later one")
        calls: list[Callable[[], object]] = [*(got.result for got in gots), queue.get, lambda: queue.put(1)]
        for call in calls:
            with pytest.raises(Cancelled, match="the first reason"):
                call()

    def test_cancel_goes_before_what_is_left(self) -> None:
        queue: ClosableQueue[int] = ClosableQueue()
        queue.put(1)
        queue.finish()
        queue.cancel("stop")
        with pytest.raises(Cancelled):
            queue.get()


@pytest.mark.parametrize("size", [1, 4096, 4097, 1 << 20])
def test_buffers_begin_on_a_page(size: int) -> None:
    for _ in range(5):
        buffer = aligned_buffer(size)
        assert (len(buffer), buffer.ctypes.data % PAGE_BYTES) == (size, 0)


class TestPool:
    def test_never_more_than_its_count(self, threads: ThreadPoolExecutor) -> None:
        pool, never = BufferPool(2, 100), threading.Event()
        first, second = pool.take(never), pool.take(never)
        assert (pool.free, len(first), len(second)) == (0, 100, 100)
        third = threads.submit(pool.take, never)
        waiting(pool._changed, 1)
        pool.give_back(first)
        assert third.result(TIMEOUT_S) is first  # reused, not made anew
        pool.give_back(second)
        assert pool.free == 1

    def test_who_was_stopped_leaves_and_others_stay(self, threads: ThreadPoolExecutor) -> None:
        pool, stopped, never = BufferPool(1, 100), threading.Event(), threading.Event()
        held = pool.take(never)
        leaving = [threads.submit(pool.take, stopped) for _ in range(3)]
        staying: Future[object] = threads.submit(pool.take, never)
        waiting(pool._changed, 4)
        stopped.set()
        pool.wake()
        for each in leaving:
            with pytest.raises(Cancelled):
                each.result(TIMEOUT_S)
        pool.give_back(held)
        assert staying.result(TIMEOUT_S) is held

    def test_who_was_stopped_takes_none_that_is_free(self) -> None:
        pool, stopped = BufferPool(1, 100), threading.Event()
        stopped.set()
        with pytest.raises(Cancelled):
            pool.take(stopped)
        assert pool.free == 1

    def test_a_free_one_goes_to_who_holds_the_fewest(self, threads: ThreadPoolExecutor) -> None:
        """A pump that sends slowly and has filled the pool does not keep the others to its own speed."""
        pool = BufferPool(3, 100)
        slow, fast = Loan(pool, threading.Event()), Loan(pool, threading.Event())
        buffers = [slow.take() for _ in range(3)]
        hungry = threads.submit(slow.take)
        waiting(pool._changed, 1)
        served = threads.submit(fast.take)
        waiting(pool._changed, 2)
        slow.give_back(buffers[0])
        assert served.result(TIMEOUT_S) is buffers[0]
        assert not hungry.done()
        fast.give_back(buffers[0])
        assert hungry.result(TIMEOUT_S) is buffers[0]


class TestLoan:
    def test_gives_back_what_is_left(self) -> None:
        pool = BufferPool(3, 100)
        loan, other = Loan(pool, threading.Event()), Loan(pool, threading.Event())
        buffers = [loan.take(), loan.take()]
        theirs = other.take()
        loan.give_back(buffers[0])
        assert pool.free == 1
        loan.close()
        loan.close()
        assert pool.free == 2
        other.give_back(theirs)
        assert pool.free == 3

    def test_waking_ends_the_waiting(self, threads: ThreadPoolExecutor) -> None:
        pool, stopped = BufferPool(0, 100), threading.Event()
        loan = Loan(pool, stopped)
        taking = threads.submit(loan.take)
        waiting(pool._changed, 1)
        stopped.set()
        loan.wake()
        with pytest.raises(Cancelled):
            taking.result(TIMEOUT_S)

    def test_a_buffer_is_given_back_once(self) -> None:
        """Or two stages would write into it."""
        pool = BufferPool(1, 100)
        loan = Loan(pool, threading.Event())
        buffer = loan.take()
        loan.give_back(buffer)
        with pytest.raises(KeyError):
            loan.give_back(buffer)
        assert pool.free == 1
