"""What an appliance must not forget to go on without a control plane: `state_dir/control/`, a file a fact.

plans.json              the last known plans
leases/<group>.json     each group's last lease, and how far this node has gone on from it
reports/<cycle>.json    cycles that it has run by itself, until the control plane has taken the report
denied                  the control plane's last word was that it does not know this node

No file here is worth stopping for: one that cannot be read is told of and left where it is, as if it were not there.
"""

import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TypeVar

import structlog

from dmcore.api.base import Message
from dmcore.api.nodes import AssignedPlans, OfflineCycle
from dmcore.appliance.offline import GroupRecord
from dmcore.host.files import make_dir, replace_file
from dmcore.model.ids import CycleId, GroupId, successor_cycle
from dmcore.node.control_client import without_disks
from dmcore.node.enrolment import control_dir

PLANS, LEASES, REPORTS, DENIED = "plans.json", "leases", "reports", "denied"

MAX_RECORDS = 20_000
"""Twice as many groups as there can be in the plans of one node."""
MAX_REPORTS = 10_000
MAX_REPORTED_DISKS = 4
"""What is waiting to be told must not fill memory and disk, however long it waits. The totals stay."""

Kept = TypeVar("Kept", bound=Message)

log = structlog.get_logger()


class OfflineState:
    """Read once, then kept in memory beside the files. Any thread may use it."""

    def __init__(self, state_dir: Path) -> None:
        """Reads what an earlier process left."""
        self._folder = control_dir(state_dir)
        self._lock, self._writing = threading.Lock(), threading.Lock()
        """What is in memory; and the turn to change it and its files, so that both change in the same order."""
        self._plans = _read(self._folder / PLANS, AssignedPlans)
        self._records = {each.job.group: each for each in _read_all(self._folder / LEASES, GroupRecord)}
        self._reports = {_cycle_of(each): each for each in _read_all(self._folder / REPORTS, OfflineCycle)}
        self._denied = (self._folder / DENIED).exists()

    @property
    def plans(self) -> AssignedPlans | None:
        """The last known plans; None: none were ever told of."""
        with self._lock:
            return self._plans

    def keep_plans(self, plans: AssignedPlans) -> None:
        """These hold from now on. Of groups that are not among them, nothing is kept."""
        groups = {group.group for group in plans.groups}
        with self._writing:
            if plans == self.plans:
                return
            with self._lock:
                self._plans = plans
            gone = [each for each in self.records() if each.job.group not in groups and not each.snapshot_left]
            for record in gone:
                self._forget_record(record)
            self._write(self._folder / PLANS, _encoded(plans))

    def record(self, group: GroupId) -> GroupRecord | None:
        """What is known of a group."""
        with self._lock:
            return self._records.get(group)

    def records(self) -> list[GroupRecord]:
        """Of all groups."""
        with self._lock:
            return list(self._records.values())

    def keep_record(self, record: GroupRecord) -> None:
        """This is what is known of its group now."""
        with self._writing:
            self._make_room(record.job.group)
            self._write(self._path(LEASES, record.job.group), _encoded(record))
            with self._lock:
                self._records[record.job.group] = record

    def reports(self) -> list[OfflineCycle]:
        """What is to be reported, of each group in the order of its cycles, whatever the clock did meanwhile."""
        with self._lock:
            found = list(self._reports.values())
        return sorted(found, key=lambda each: (each.outcome.epoch, each.successor, each.started_at))

    @property
    def unreported(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._reports)

    def keep_report(self, report: OfflineCycle) -> None:
        """A cycle to report. One of the same cycle is replaced; of too many the oldest goes.

        The points themselves are stated by their connector: only the history of jobs has a gap then.
        """
        cycle, kept = _cycle_of(report), _bounded(report)
        with self._writing:
            if cycle not in self._reports and self.unreported >= MAX_REPORTS:
                oldest = min(self.reports(), key=lambda each: each.started_at)
                log.warning("too many cycles wait to be reported; the oldest one is not", cycle=str(_cycle_of(oldest)))
                self._forget_report(oldest)
            self._write(self._path(REPORTS, cycle), _encoded(kept))
            with self._lock:
                self._reports[cycle] = kept

    def forget_reports(self, reports: Iterable[OfflineCycle]) -> None:
        """The control plane has these. One that was replaced meanwhile stays."""
        for report in reports:
            with self._writing:
                if self._reports.get(_cycle_of(report)) == report:
                    self._forget_report(report)

    @property
    def denied(self) -> bool:
        """Whether this node was revoked, as far as it knows: it does nothing by itself then."""
        with self._lock:
            return self._denied

    def keep_denied(self, denied: bool) -> None:
        """This is what the control plane has said now."""
        with self._writing:
            if denied == self.denied:
                return
            with self._lock:
                self._denied = denied
            if denied:
                self._write(self._folder / DENIED, b"")
            else:
                self._remove(self._folder / DENIED)

    # In the turn

    def _make_room(self, group: GroupId) -> None:
        """A control plane that invents groups must not fill the disk: of those in no plan the oldest one goes."""
        if group in self._records or len(self._records) < MAX_RECORDS:
            return
        assigned = {each.group for each in self._plans.groups} if self._plans else set()
        others = [each for each in self._records.values() if each.job.group not in assigned]
        if others:
            self._forget_record(min(others, key=lambda each: each.started_at))

    def _forget_record(self, record: GroupRecord) -> None:
        with self._lock:
            del self._records[record.job.group]
        self._remove(self._path(LEASES, record.job.group))

    def _forget_report(self, report: OfflineCycle) -> None:
        with self._lock:
            del self._reports[_cycle_of(report)]
        self._remove(self._path(REPORTS, _cycle_of(report)))

    def _path(self, folder: str, name: GroupId | CycleId) -> Path:
        return self._folder / folder / f"{name}.json"

    def _write(self, path: Path, content: bytes) -> None:
        """A full disk costs what a restart would have gone on with, not the replication."""
        try:
            make_dir(path.parent)
            replace_file(path, content)
        except OSError as problem:
            log.error("not durable", path=str(path), problem=problem.strerror or str(problem))

    def _remove(self, path: Path) -> None:
        """What stays is read by the next process, which learns once more that it is over."""
        try:
            path.unlink(missing_ok=True)
        except OSError as problem:
            log.error("cannot be removed", path=str(path), problem=problem.strerror or str(problem))


def _cycle_of(report: OfflineCycle) -> CycleId:
    return successor_cycle(report.base_cycle, report.successor)


def _bounded(report: OfflineCycle) -> OfflineCycle:
    if len(report.outcome.progress.disks) <= MAX_REPORTED_DISKS:
        return report
    return report.model_copy(update={"outcome": without_disks(report.outcome)})


def _encoded(kept: Message) -> bytes:
    return kept.model_dump_json().encode()


def _read(path: Path, kind: type[Kept]) -> Kept | None:
    try:
        return kind.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as problem:  # a ValueError's words would show the ticket
        log.error("cannot be read, and is left alone", path=str(path), problem=type(problem).__name__)
        return None


def _read_all(folder: Path, kind: type[Kept]) -> list[Kept]:
    found = (_read(path, kind) for path in sorted(folder.glob("*.json")))
    return [each for each in found if each is not None]
