"""The long poll: a node asks for work, and waits for some. Waiting holds no thread and no connection."""

import asyncio
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import Connection, Row
from starlette.concurrency import run_in_threadpool

from dmcore.api.jobs import Job
from dmcore.api.nodes import PollReply, PollRequest
from dmcore.control.access import enrolment
from dmcore.control.errors import NodeSuperseded
from dmcore.control.plane import Plane
from dmcore.control.plans.assigned import assigned_version
from dmcore.control.queue.claims import claim
from dmcore.control.queue.queue import QueueKey, has_cycle, keys_of
from dmcore.control.web.routes.access import REFUSALS, PlaneOf, Sender
from dmcore.control.web.routes.signed import SignedRoute
from dmcore.control.web.waiters import Waiter, jittered_s
from dmcore.model.ids import NodeId

router = APIRouter(prefix="/v1/nodes", tags=["for nodes"], responses=REFUSALS, route_class=SignedRoute)


@router.post("/poll")
async def poll(http: Request, plane: PlaneOf, node: Sender, request: PollRequest) -> PollReply:
    """At most one job, leased to the asker; without one, after at most `wait_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + jittered_s(request.wait_s)
    with plane.waiters.listening() as waiter:
        while True:
            reply = await run_in_threadpool(_ask, plane, node, request, waiter)
            left_s = deadline - loop.time()
            if _is_news(reply, request) or left_s <= 0 or plane.waiters.closed:
                return reply
            if not await waiter.wait(left_s) or plane.waiters.closed:
                return reply
            if await http.is_disconnected():  # nothing is leased to one that hangs up: it is for who still listens
                plane.waiters.wake(waiter.keys)
                return reply


def _ask(plane: Plane, node: NodeId, request: PollRequest, waiter: Waiter) -> PollReply:
    """Once; the waiter is told of what comes from then on. Raises NodeSuperseded, NodeRevoked."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        row = enrolment.seen(connection, now, node, request)
        if row:
            plane.waiters.listen(waiter, keys_of(row, request.sources))
            reply = _answer(plane, connection, now, row, request)
            more = reply.job is not None and has_cycle(connection, now, row.site, reply.job.source)
    if row is None:
        raise NodeSuperseded(node=node)
    if reply.job and more:  # the next in line looks
        plane.waiters.wake([QueueKey.cycles(row.site, reply.job.source)])
    return reply


def _answer(plane: Plane, connection: Connection, now: datetime, row: Row[Any], request: PollRequest) -> PollReply:
    leases = plane.settings.leases
    found = claim(connection, now, row, request, plane.tickets, leases)
    told = found and request.plans_version  # who gets something to do is told of other plans by its next poll
    return PollReply(
        job=found if isinstance(found, Job) else None, work=None if isinstance(found, Job) else found,
        lease_s=leases.lease_s, heartbeat_s=leases.heartbeat_s,
        plans_version=told or assigned_version(connection, now, row, request.sources),
    )  # fmt: skip


def _is_news(reply: PollReply, request: PollRequest) -> bool:
    """Whether there is no point in waiting."""
    return bool(reply.job or reply.work or not request.slots or reply.plans_version != request.plans_version)
