"""The long poll: woken by what comes, empty at its end, and nothing leased to nobody."""

import asyncio
from typing import Any
from uuid import UUID

from dmcore.api.plans import RunRequest
from dmcore.control.plane import Plane
from dmcore.control.plans import plans
from dmcore.control.queue.queue import QueueKey
from tests.control.web_kit import PLAN, Answer, HandClock, NodeKit, Web, encoded


def waiting_poll(node: NodeKit, wait_s: float = 30) -> dict[str, Any]:
    known = node.poll(sources=["vms"], slots=0).json["plans_version"]
    return node.poll_body(sources=["vms"], wait_s=wait_s, plans_version=known)


async def exchange(node: NodeKit, body: dict[str, Any], **more: Any) -> Answer:
    data = encoded(body)
    headers = {"Authorization": node.signature("POST", "/v1/nodes/poll", data)}
    return await node.web.exchange("POST", "/v1/nodes/poll", data, headers=headers, **more)


async def until_waiting(plane: Plane) -> None:
    while not plane.waiters.waiting:
        await asyncio.sleep(0.01)


def test_a_long_poll_wakes_when_a_job_comes(
    web: Web, plane: Plane, appliance: NodeKit, connector: NodeKit, clock: HandClock
) -> None:
    plan = web.ask("POST", "/v1/plans", PLAN).json["id"]
    body = waiting_poll(appliance)

    async def story() -> Answer:
        polling = asyncio.create_task(exchange(appliance, body))
        await until_waiting(plane)
        plane.waiters.wake([QueueKey.cycles("paris", "vms")])  # for nothing: it goes on waiting
        await asyncio.to_thread(web.ask, "POST", f"/v1/plans/{plan}/run", {})
        return await asyncio.wait_for(polling, 20)

    answer = asyncio.run(story())
    assert answer.json["job"] is not None
    assert plane.waiters.waiting == 0


def test_a_long_poll_ends_empty(web: Web, plane: Plane, appliance: NodeKit) -> None:
    answer = asyncio.run(exchange(appliance, waiting_poll(appliance, wait_s=0.05)))
    assert (answer.status, answer.json["job"], answer.json["work"]) == (200, None, None)


def test_nothing_is_leased_to_one_that_hung_up(web: Web, plane: Plane, appliance: NodeKit, connector: NodeKit) -> None:
    plan = web.ask("POST", "/v1/plans", PLAN).json["id"]
    body = waiting_poll(appliance)

    async def story() -> Answer:
        gone = asyncio.Event()
        polling = asyncio.create_task(exchange(appliance, body, gone=gone))
        await until_waiting(plane)
        gone.set()
        await asyncio.to_thread(web.ask, "POST", f"/v1/plans/{plan}/run", {})
        return await asyncio.wait_for(polling, 20)

    assert asyncio.run(story()).json["job"] is None
    assert {job["state"] for job in web.ask("GET", "/v1/jobs").json["jobs"]} == {"queued"}


def test_polls_end_when_the_server_stops(web: Web, plane: Plane, appliance: NodeKit) -> None:
    body = waiting_poll(appliance)

    async def story() -> Answer:
        polling = asyncio.create_task(exchange(appliance, body))
        await until_waiting(plane)
        plane.waiters.close()
        return await asyncio.wait_for(polling, 20)

    assert asyncio.run(story()).status == 200
    assert asyncio.run(exchange(appliance, waiting_poll(appliance))).status == 200  # and none waits any more


def test_who_waits_when_the_server_stops_gets_no_lease(
    web: Web, plane: Plane, appliance: NodeKit, connector: NodeKit
) -> None:
    """A thousand of them would claim at once, and many be cut off with the answer on its way."""
    plan = web.ask("POST", "/v1/plans", PLAN).json["id"]
    body = waiting_poll(appliance)

    async def story() -> Answer:
        polling = asyncio.create_task(exchange(appliance, body))
        await until_waiting(plane)
        with plane.database.write() as connection:
            now = plane.database.now(connection)
            plans.run(connection, now, UUID(plan), RunRequest(), "another replica")
        plane.waiters.close()
        return await asyncio.wait_for(polling, 20)

    assert asyncio.run(story()).json["job"] is None
    assert {job["state"] for job in web.ask("GET", "/v1/jobs").json["jobs"]} == {"queued"}


def test_what_woke_one_that_hung_up_wakes_the_next(
    web: Web, plane: Plane, appliance: NodeKit, connector: NodeKit
) -> None:
    plan = web.ask("POST", "/v1/plans", PLAN).json["id"]
    bodies = [waiting_poll(appliance), waiting_poll(appliance)]

    async def story() -> list[Answer]:
        gone, polls = asyncio.Event(), []
        for body, more in zip(bodies, ({"gone": gone}, {}), strict=True):
            polls.append(asyncio.create_task(exchange(appliance, body, **more)))
            while plane.waiters.waiting < len(polls):
                await asyncio.sleep(0.01)
        gone.set()
        await asyncio.to_thread(web.ask, "POST", f"/v1/plans/{plan}/run", {})
        return [await asyncio.wait_for(poll, 20) for poll in polls]

    hung_up, other = asyncio.run(story())
    assert hung_up.json["job"] is None
    assert other.json["job"] is not None


def test_a_node_that_is_revoked_while_it_polls_gets_nothing(
    web: Web, plane: Plane, appliance: NodeKit, connector: NodeKit
) -> None:
    plan = web.ask("POST", "/v1/plans", PLAN).json["id"]
    body = waiting_poll(appliance)

    async def story() -> Answer:
        polling = asyncio.create_task(exchange(appliance, body))
        await until_waiting(plane)
        await asyncio.to_thread(web.ask, "DELETE", f"/v1/nodes/{appliance.id}")
        await asyncio.to_thread(web.ask, "POST", f"/v1/plans/{plan}/run", {})
        return await asyncio.wait_for(polling, 20)

    assert asyncio.run(story()).code == "node.unknown"


def test_who_gets_a_job_is_told_of_other_plans_by_its_next_poll(
    web: Web, appliance: NodeKit, connector: NodeKit
) -> None:
    known = appliance.poll(sources=["vms"], slots=0).json["plans_version"]
    plan = web.ask("POST", "/v1/plans", PLAN).json["id"]
    assert web.ask("POST", f"/v1/plans/{plan}/run", {}).status == 200
    busy: list[str] = []
    for _ in range(2):  # its machines
        got = appliance.poll(sources=["vms"], plans_version=known, busy=busy).json
        assert got["plans_version"] == known
        busy.append(got["job"]["group"])
    told = appliance.poll(sources=["vms"], plans_version=known, busy=busy, wait_s=30).json
    assert told["job"] is None
    assert told["plans_version"] not in {0, known}


def test_who_gets_a_job_and_knows_no_plans_is_told_at_once(web: Web, appliance: NodeKit, connector: NodeKit) -> None:
    plan = web.ask("POST", "/v1/plans", PLAN).json["id"]
    assert web.ask("POST", f"/v1/plans/{plan}/run", {}).status == 200
    got = appliance.poll(sources=["vms"], plans_version=0).json
    assert got["job"] is not None
    assert got["plans_version"] != 0
