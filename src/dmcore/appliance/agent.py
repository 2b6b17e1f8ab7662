"""A whole appliance, from its settings: opened once, it runs the jobs that it is given."""

from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType
from typing import Self

import structlog
from pydantic import ValidationError

from dmcore.api.jobs import Job
from dmcore.appliance.cycle import Cycle
from dmcore.appliance.errors import JobUnreadable
from dmcore.appliance.leftovers import Sweep, ask_all
from dmcore.appliance.link import Link
from dmcore.appliance.metrics import ApplianceMetrics
from dmcore.appliance.pacing import Pacing
from dmcore.appliance.pairing import load_pairing, load_pairings
from dmcore.appliance.progress import CycleProgress, CycleReport
from dmcore.appliance.pump import Pools
from dmcore.appliance.queue import PAGE_BYTES, BufferPool
from dmcore.appliance.reading import BATCH_BYTES
from dmcore.appliance.throttling import TimedPace
from dmcore.appliance.transfer import Tools
from dmcore.blocks.constants import MIN_BLOCK_BYTES
from dmcore.host.lock import StateLock
from dmcore.keys.local import LocalKek
from dmcore.native.sealing import worst_case_bytes
from dmcore.node.aliases import source_place
from dmcore.node.identity import Identity, load_identity
from dmcore.node.settings import ApplianceSettings
from dmcore.sources.base import Source
from dmcore.sources.registry import open_source

MAX_JOB_BYTES = 1 << 20

log = structlog.get_logger()


class Appliance:
    """Everything of one appliance process."""

    def __init__(self, settings: ApplianceSettings) -> None:
        """Lock the state directory and open the keys.

        Raises:
            DmcoreError: the settings, keys or state are not usable, or another process runs this node.
        """
        self.settings = settings
        with ExitStack() as undo:
            undo.enter_context(StateLock(settings.state_dir))
            self.identity = load_identity(settings.state_dir)
            self._keys = LocalKek(settings.kek.file, settings.kek.fingerprint)
            self._pools = make_pools(settings.limits.buffer_bytes)
            self.pacing, self.metrics = Pacing(), ApplianceMetrics()
            self._undo = undo.pop_all()

    def run(self, job: Job, progress: CycleProgress, started: Callable[[Cycle], None] = lambda _: None) -> CycleReport:
        """Run one job to its end. `started` is given the cycle, so that somebody can cancel it.

        Several threads may run a job each, of different groups.

        Raises:
            DmcoreError: there is no recovery point; it says whether trying again can help.
        """
        pairing = load_pairing(self.settings.state_dir, job.connector)
        tools = Tools(
            Link.of(pairing, self.identity), self._keys, self._pools, self.settings.block_bytes,
            self.settings.codec, self.settings.limits.parallel_disks,
            TimedPace(self.pacing.for_job(job.job, job.plan), self.metrics.throttled_s.inc),
        )  # fmt: skip
        with closing(open_alias(self.settings, job.source)) as source:
            cycle = Cycle(job, source, tools, progress)
            started(cycle)
            return cycle.run()

    def sweep(self) -> Sweep:
        """Looks for source snapshots that were left."""
        return make_sweep(self.settings, self.identity)

    def close(self) -> None:
        """Release the state directory. Idempotent."""
        self._undo.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def make_pools(buffer_bytes: int) -> Pools:
    """The node's buffers: pairs of one to read into and one to seal into, within its budget, at least one pair."""
    sealed = worst_case_bytes(BATCH_BYTES // MIN_BLOCK_BYTES, MIN_BLOCK_BYTES)  # the most frames, so the most overhead
    pairs = max(buffer_bytes // (BATCH_BYTES + sealed + 2 * PAGE_BYTES), 1)
    return Pools(BufferPool(pairs, BATCH_BYTES), BufferPool(pairs, sealed))


def open_alias(settings: ApplianceSettings, alias: str) -> Source:
    """The source that this node's own configuration calls so.

    Raises:
        AliasUnknown, PathOutsideRoots, SourceError.
    """
    place = source_place(settings, alias)
    return open_source(place.kind, place.path)


def make_sweep(settings: ApplianceSettings, identity: Identity) -> Sweep:
    """Looks for source snapshots that were left, in all sources; every connector that is paired now has its say."""

    def links() -> dict[str, Link]:
        return {each.connector: Link.of(each, identity) for each in load_pairings(settings.state_dir)}

    def opened(alias: str) -> Source:
        return open_alias(settings, alias)

    return Sweep(settings.sources, opened, ask_all(links), settings.limits.snapshot_max_age_s)


def load_job(path: Path) -> Job:
    """A job from a file.

    Raises:
        JobUnreadable: it is missing, or no job.
    """
    try:
        with path.open("rb") as file:
            return Job.model_validate_json(file.read(MAX_JOB_BYTES))
    except OSError as error:
        raise JobUnreadable(path=str(path), problem=error.strerror or str(error)) from error
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "job"
        raise JobUnreadable(path=str(path), problem=f"{where}: {first['msg']}") from error
