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
                return await waiter.wait(10)

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
