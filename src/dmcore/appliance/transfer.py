"""Getting a cycle's blocks to the connector: every disk over connections of its own, a few disks at a time."""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import structlog
from pydantic import ValidationError

from dmcore.api.jobs import Codec as CodecName
from dmcore.api.jobs import Job
from dmcore.appliance.errors import OpenedOtherwise
from dmcore.appliance.link import Link
from dmcore.appliance.pacing import wait_while_paused
from dmcore.appliance.planning import DiskWork
from dmcore.appliance.progress import CycleProgress, DiskStats
from dmcore.appliance.pump import DiskPump, Pools, header_for
from dmcore.appliance.stop import Stop
from dmcore.blocks import extents as ex
from dmcore.blocks.extents import Extents
from dmcore.blocks.grid import Grid
from dmcore.keys.provider import KeyProvider, WrappedKeys, unwrap_all
from dmcore.model.ids import DiskId
from dmcore.seal.constants import MAX_STREAM_DATA_BYTES
from dmcore.seal.header import StreamHeader
from dmcore.seal.stream import Codec
from dmcore.wire.disk_channel import DiskChannel, OpenedDisk
from dmcore.wire.errors import ProtocolError
from dmcore.wire.messages import OpenReply, OpenRequest
from dmcore.wire.pacer import UNPACED, Pace

CODECS = {CodecName.NONE: Codec.NONE, CodecName.LZ4: Codec.LZ4, CodecName.ZSTD: Codec.ZSTD}
PART_BYTES = MAX_STREAM_DATA_BYTES // 2
"""How much of a disk one stream is for: whatever it holds, the stream stays under its limits."""
NAMED = 32
"""Extents that are named in this node's log: an operator looks at some, not at a million."""

log = structlog.get_logger()


@dataclass(frozen=True)
class Tools:
    """What a cycle works with; the agent makes it once."""

    link: Link
    keys: KeyProvider
    pools: Pools
    block_bytes: int
    codec: CodecName
    parallel_disks: int
    pace: Pace = UNPACED
    """How fast the job's blocks may be sent: `Pacing.for_job`."""
    monotonic: Callable[[], float] = time.monotonic


class Transfer:
    """One cycle's, over all its tries in this process. `run` again after a broken connection sends what is missing."""

    def __init__(self, job: Job, tools: Tools, stop: Stop, progress: CycleProgress) -> None:
        self._job, self._tools, self._stop, self._progress = job, tools, stop, progress
        self._senders: dict[DiskId, DiskSender] = {}

    @property
    def acknowledged(self) -> int:
        """How many batches of blocks the connector has acknowledged: whether a try got anywhere."""
        return sum(sender.acknowledged for sender in self._senders.values())

    def run(self, work: list[DiskWork]) -> dict[DiskId, Extents]:
        """Every disk's coverage, durable. The first disk that fails stops the others.

        Raises:
            DmcoreError: what failed first. Cancelled: somebody asked to stop.
        """
        for disk in work:
            stats = self._progress.disks.setdefault(disk.id, disk.stats())
            self._senders.setdefault(disk.id, DiskSender(self._job, self._tools, disk, stats))
        rest, threads = Stop(), self._tools.parallel_disks
        with self._stop.watching(rest.request), ThreadPoolExecutor(threads, thread_name_prefix="disk") as pool:
            futures = {pool.submit(sender.send, rest): disk for disk, sender in self._senders.items()}
            try:
                return {futures[future]: future.result() for future in as_completed(futures)}
            except BaseException:  # also what interrupts the waiting
                rest.request("another disk of the group has failed")
                raise


class DiskSender:
    """One disk, over all tries. What a try has finished is not looked at again by the next."""

    def __init__(self, job: Job, tools: Tools, work: DiskWork, stats: DiskStats) -> None:
        self._job, self._tools, self._work, self._stats = job, tools, work, stats
        self._finished: dict[int, Extents] = {}
        self._resumed: dict[int, int] = {}
        self._excused: dict[int, Extents] = {}
        self.acknowledged = 0
        """Batches of blocks that are durable at the connector."""

    def send(self, stop: Stop) -> Extents:
        """As many streams as the disk's size takes, one after the other. Returns the coverage."""
        for first in range(0, self._work.grid.disk_bytes, PART_BYTES):
            if first not in self._finished:
                self._finished[first] = self._send_part(first, stop)
        covered = ex.normalize(np.concatenate(list(self._finished.values())))
        self._stats.changed_bytes = ex.total_bytes(covered)
        return covered

    def _send_part(self, first: int, stop: Stop) -> Extents:
        """A part over its own connection. Where nothing has changed it needs none."""
        stop.check()
        work, tools = self._work, self._tools
        window = part_window(work.grid, first)
        choice = replace(work.choice, extents=ex.intersect(work.choice.extents, window))
        if not len(choice.extents) and not work.unknown_blocks:
            return ex.empty()
        wait_while_paused(tools.pace, stop)
        with stop.connected(tools.link.disk) as channel, self._counted(channel):
            opened = self._open(channel, first, window)
            channel.connection.use_pace(tools.pace)
            keys = unwrap_all(tools.keys, wrapped_keys(self._job, opened.reply, channel.connection.peer))
            pump = DiskPump(work.disk, choice, opened, channel, self._stats, tools.pools)
            with stop.watching(pump.cancel):
                covered = pump.run(self._header(opened), keys, CODECS[self._job.codec or tools.codec])
        self._check_tracking(first, covered)
        return covered

    def _check_tracking(self, first: int, covered: Extents) -> None:
        """What differs and was not told of as changed, the source's tracking has missed."""
        if self._work.choice.tracked is None:
            return
        missed = ex.subtract(covered, ex.union(self._work.choice.tracked, self._excused[first]))
        self._stats.untracked_bytes = (self._stats.untracked_bytes or 0) + ex.total_bytes(missed)
        if len(missed):
            log.error(
                "the source's tracking has missed changes", disk=self._stats.label, cycle=str(self._job.cycle),
                missed_bytes=ex.total_bytes(missed), first_of_them=missed[:NAMED].tolist(),
            )  # fmt: skip

    def _excuse(self, first: int, opened: OpenedDisk) -> None:
        """What is carried whatever the source holds: unknown blocks, also those that an earlier try has carried."""
        if first not in self._excused:  # of what an earlier process has carried nobody knows which were unknown
            self._excused[first] = opened.durable if self._work.unknown_blocks else ex.empty()
        self._excused[first] = ex.union(self._excused[first], opened.unknown)

    def _open(self, channel: DiskChannel, first: int, window: Extents) -> OpenedDisk:
        """What the connector has and wants of a part."""
        job = self._job
        opened = channel.open(OpenRequest(group=job.group, cycle=job.cycle, epoch=job.epoch, disk=self._work.id))
        require_as_planned(self._work, opened)
        durable, unknown = ex.intersect(opened.durable, window), ex.intersect(opened.unknown, window)
        self._resumed[first] = ex.total_bytes(durable)
        self._stats.resumed_bytes = sum(self._resumed.values())
        narrowed = replace(opened, durable=durable, unknown=unknown)
        self._excuse(first, narrowed)
        return narrowed

    @contextmanager
    def _counted(self, channel: DiskChannel) -> Iterator[None]:
        began, connection, stats = self._tools.monotonic(), channel.connection, self._stats
        before_bytes = stats.wire_bytes
        stats.meter = lambda: before_bytes + connection.sent_bytes + connection.received_bytes
        try:
            yield
        finally:
            stats.wire_bytes, stats.meter = stats.meter(), None
            stats.seconds += self._tools.monotonic() - began
            self.acknowledged += max(channel.durable_batch, 0)  # batch 0, OPEN, holds no block

    def _header(self, opened: OpenedDisk) -> StreamHeader:
        job, work = self._job, self._work
        template = StreamHeader(1, job.plan, work.id, job.cycle, job.epoch, 1, work.grid.disk_bytes)
        return header_for(opened, template)


def part_window(grid: Grid, first: int) -> Extents:
    """The part of a disk that begins at this byte."""
    return ex.from_pairs([(first, min(PART_BYTES, grid.disk_bytes - first))])


def require_as_planned(work: DiskWork, opened: OpenedDisk) -> None:
    """What the connector says of the disk is what `begin` has said, so that its numbers fit this source.

    Raises:
        OpenedOtherwise: it is not.
    """
    reply = opened.reply
    planned = (work.grid.disk_bytes, work.grid.block_bytes, work.base_image)
    answered = (reply.disk_bytes, reply.block_bytes, reply.base_image)
    if planned != answered:
        words = "{} bytes in blocks of {}, on image {}"
        label = work.disk.info.label
        raise OpenedOtherwise(disk=label, planned=words.format(*planned), opened=words.format(*answered))


def wrapped_keys(job: Job, reply: OpenReply, peer: str) -> WrappedKeys:
    """The wrapped keys that `open` brought.

    Raises:
        ProtocolError: they cannot be such.
    """
    try:
        return WrappedKeys.model_validate(
            {
                "plan": job.plan,
                "dek_version": reply.dek_version,
                "kek_fingerprint": reply.kek_fingerprint,
                "dek": reply.wrapped_dek,
                "digest_root": reply.wrapped_digest_root,
            }
        )
    except ValidationError as error:
        fields = ", ".join(".".join(map(str, each["loc"])) for each in error.errors(include_input=False))
        raise ProtocolError(peer=peer, problem=f"wrapped keys with a bad {fields}") from None
