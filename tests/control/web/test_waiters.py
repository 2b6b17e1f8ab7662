import asyncio
import threading

from dmcore.control.queue.queue import QueueKey
from dmcore.control.web.waiters import WAKE_AT_ONCE, Waiters, jittered_s

KEY, OTHER = QueueKey.cycles("paris", "vms"), QueueKey.work("c")


def test_a_wake_while_looking_is_not_missed() -> None:
    waiters = Waiters()

    async def story() -> bool:
        with waiters.listening({KEY}) as waiter:
            waiters.wake([KEY])
            return await waiter.wait(10)

    assert asyncio.run(story())


def test_a_wake_from_another_thread() -> None:
    waiters = Waiters()

    async def story() -> bool:
        with waiters.listening({KEY, OTHER}) as waiter:
            thread = threading.Thread(target=waiters.wake, args=([OTHER],))
            thread.start()
            woken = await waiter.wait(10)
            thread.join()
            return woken

    assert asyncio.run(story())
    assert waiters.waiting == 0


def test_nothing_comes() -> None:
    waiters = Waiters()

    async def story() -> bool:
        with waiters.listening({KEY}) as waiter:
            waiters.wake([OTHER])
            return await waiter.wait(0.01)

    assert not asyncio.run(story())


def test_some_are_told_at_a_time_and_all_in_turn() -> None:
    waiters = Waiters()

    async def story() -> list[int]:
        async def one() -> bool:
            with waiters.listening({KEY}) as waiter:
                told = await waiter.wait(10)
                waiters.listen(waiter, {KEY})
                return told

        tasks = [asyncio.create_task(one()) for _ in range(2 * WAKE_AT_ONCE)]
        await asyncio.sleep(0)
        done = []
        while not all(task.done() for task in tasks):
            waiters.wake([KEY])
            for _ in range(5):
                await asyncio.sleep(0)
            done.append(sum(task.done() for task in tasks))
        return done

    assert asyncio.run(story()) == [WAKE_AT_ONCE, 2 * WAKE_AT_ONCE]


def test_after_the_end_nobody_waits() -> None:
    waiters = Waiters()

    async def story() -> bool:
        with waiters.listening({KEY}) as before:
            waiters.close()
            with waiters.listening({KEY}) as after:
                return await before.wait(10) and await after.wait(10)

    assert asyncio.run(story())
    assert waiters.closed


def test_a_wait_is_a_little_shorter_each_time_otherwise() -> None:
    waits = {jittered_s(25) for _ in range(20)}
    assert len(waits) > 1
    assert all(20 <= wait_s <= 25 for wait_s in waits)


def test_queues_are_told_one_after_the_other() -> None:
    waiters = Waiters()

    async def story() -> tuple[bool, bool]:
        with waiters.listening({KEY}) as first, waiters.listening({OTHER}) as second:
            waiters.wake([KEY, OTHER], apart_s=0.2)
            soon = await first.wait(10), await second.wait(0)
            return soon[0] and not soon[1], await second.wait(10)

    assert asyncio.run(story()) == (True, True)


def test_a_waiter_listens_to_what_it_was_told_last() -> None:
    waiters = Waiters()

    async def story() -> tuple[bool, bool]:
        with waiters.listening({KEY}) as waiter:
            waiters.listen(waiter, {OTHER})
            waiters.wake([KEY])
            before = await waiter.wait(0.01)
            waiters.wake([OTHER])
            return before, await waiter.wait(10)

    assert asyncio.run(story()) == (False, True)
    assert waiters.waiting == 0


def test_nobody_is_told_of_what_another_has_still_to_look_into() -> None:
    waiters = Waiters()

    async def story() -> list[bool]:
        with waiters.listening({KEY}) as first, waiters.listening({KEY, OTHER}) as second:
            waiters.wake([KEY])
            waiters.wake([KEY])
            told = [await first.wait(10), await second.wait(0.01)]
            waiters.wake([OTHER])  # that is another queue
            told.append(await second.wait(10))
            waiters.listen(first, {KEY})
            waiters.wake([KEY])
            return [*told, await second.wait(10)]

    assert asyncio.run(story()) == [True, False, True, True]


def test_the_next_looks_in_the_place_of_one_that_was_told_and_has_gone() -> None:
    waiters = Waiters()

    async def story() -> bool:
        with waiters.listening({KEY}) as second:
            with waiters.listening({KEY}) as first:
                waiters.listen(second, set())
                waiters.listen(second, {KEY})  # behind the first now
                waiters.wake([KEY])
                assert await first.wait(10)
            return await second.wait(10)

    assert asyncio.run(story())


def test_who_has_looked_leaves_nothing_to_the_next() -> None:
    waiters = Waiters()

    async def story() -> bool:
        with waiters.listening({KEY}) as second:
            with waiters.listening({KEY}) as first:
                waiters.listen(second, set())
                waiters.listen(second, {KEY})
                waiters.wake([KEY])
                assert await first.wait(10)
                waiters.listen(first, {KEY})
            return await second.wait(0.01)

    assert not asyncio.run(story())
