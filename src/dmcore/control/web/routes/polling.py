"""The long poll: a node asks for work, and waits for some. Waiting holds no thread and no connection."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request
from sqlalchemy import Row
from starlette.concurrency import run_in_threadpool

from dmcore.api.jobs import Job
from dmcore.api.nodes import PollReply, PollRequest
from dmcore.control.access import enrolment
from dmcore.control.errors import NodeSuperseded
from dmcore.control.plane import Plane
from dmcore.control.plans.assigned import assigned_version
from dmcore.control.queue.claims import claim
from dmcore.control.queue.queue import QueueKey, keys_of
from dmcore.control.web.routes.access import REFUSALS, Node, PlaneOf
from dmcore.control.web.waiters import jittered_s

router = APIRouter(prefix="/v1/nodes", tags=["for nodes"], responses=REFUSALS)


@router.post("/poll")
async def poll(http: Request, plane: PlaneOf, node: Node, request: PollRequest) -> PollReply:
    """At most one job, leased to the asker; without one, after at most `wait_s`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + jittered_s(request.wait_s)
    keys = keys_of(node, request.sources)
    with plane.waiters.listening(keys) as waiter:
        while True:
            reply = await run_in_threadpool(_ask, plane, node, request)
            left_s = deadline - loop.time()
            if _is_news(reply, request) or left_s <= 0 or plane.waiters.closed:
                return reply
            if not await waiter.wait(left_s) or plane.waiters.closed:
                return reply
            if await http.is_disconnected():  # nothing is leased to one that hangs up: it is for who still listens
                plane.waiters.wake(keys)
                return reply


def _ask(plane: Plane, node: Row[Any], request: PollRequest) -> PollReply:
    """Once. Raises NodeSuperseded, NodeRevoked."""
    with plane.database.write() as connection:
        now = plane.database.now(connection)
        row = enrolment.seen(connection, now, node.id, request)
        job = claim(connection, now, row, request, plane.tickets, plane.settings.leases) if row else None
        version = assigned_version(connection, now, row, request.sources) if row else 0
    if row is None:
        raise NodeSuperseded(node=node.id)
    if isinstance(job, Job):  # there may be more: the next in line looks
        plane.waiters.wake([QueueKey.cycles(row.site, job.source)])
    leases = plane.settings.leases
    return PollReply(
        job=job if isinstance(job, Job) else None, work=None if isinstance(job, Job) else job,
        lease_s=leases.lease_s, heartbeat_s=leases.heartbeat_s, plans_version=version,
    )  # fmt: skip


def _is_news(reply: PollReply, request: PollRequest) -> bool:
    """Whether there is no point in waiting."""
    return bool(reply.job or reply.work or not request.slots or reply.plans_version != request.plans_version)
