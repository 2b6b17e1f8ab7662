"""A cycle's source snapshot: found or made, and removed only when no attempt can need it any more."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import structlog

from dmcore.api.jobs import Job
from dmcore.appliance.planning import DiskWork
from dmcore.errors import SourceError
from dmcore.model.ids import parse_snapshot_name, source_snapshot_name
from dmcore.sources.base import Source, SourceSnapshot

log = structlog.get_logger()


class CycleSnapshots:
    """The source's snapshots as one cycle sees them: its own, and those that earlier cycles of its group left.

    Removing never fails a cycle: what is left is logged, and the group's next cycle tries again.
    """

    def __init__(self, source: Source, job: Job) -> None:
        self._source = source
        self._name = source_snapshot_name(job.group, job.cycle)
        self._group = job.group

    def open(self, machines: Sequence[str]) -> SourceSnapshot:
        """This cycle's: the one that an earlier attempt has made, else a new one. Raises SourceError."""
        return self._source.find_snapshot(self._name) or self._source.snapshot(machines, self._name)

    def remove_own(self) -> None:
        """Delete this cycle's."""
        self._remove(self._name)

    def remove_others(self) -> None:
        """Delete those of the group's other cycles: this cycle began, so each is finished, dropped or never began."""
        names: list[str] = []
        with _logged(f"any of group {self._group}"):
            names = self._source.snapshots()
        for name in names:
            ours = parse_snapshot_name(name)
            if ours is not None and ours[0] == self._group and name != self._name:
                log.warning("leftover source snapshot is removed", snapshot=name)
                self._remove(name)

    def release_older(self, work: list[DiskWork]) -> None:
        """The connector holds this snapshot's tokens now: what only older ones need may go."""
        for each in work:
            with _logged(self._name):
                if each.disk.next_token is not None:
                    self._source.release(each.machine, each.disk.info.identity, each.disk.next_token)

    def _remove(self, name: str) -> None:
        with _logged(name):
            self._source.delete_snapshot(name)


@contextmanager
def _logged(snapshot: str) -> Iterator[None]:
    try:
        yield
    except SourceError as error:
        log.warning("source not cleaned up", snapshot=snapshot, code=error.code, problem=str(error))
