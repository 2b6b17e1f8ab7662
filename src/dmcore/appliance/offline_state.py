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
from dmcore.node.enrolment import control_dir

PLANS, LEASES, REPORTS, DENIED = "plans.json", "leases", "reports", "denied"

Kept = TypeVar("Kept", bound=Message)

log = structlog.get_logger()


class OfflineState:
    """Read once, then kept in memory beside the files. Any thread may use it."""

    def __init__(self, state_dir: Path) -> None:
        """Reads what an earlier process left."""
        self._folder = control_dir(state_dir)
        self._lock = threading.Lock()
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
        with self._lock:
            self._plans = plans
            gone = [
                group for group, record in self._records.items() if group not in groups and not record.snapshot_left
            ]
            for group in gone:
                del self._records[group]
                self._path(LEASES, group).unlink(missing_ok=True)
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
        with self._lock:
            self._records[record.job.group] = record
        self._write(self._path(LEASES, record.job.group), _encoded(record))

    def reports(self) -> list[OfflineCycle]:
        """What is to be reported, oldest first."""
        with self._lock:
            return sorted(self._reports.values(), key=lambda each: (each.started_at, each.successor))

    def keep_report(self, report: OfflineCycle) -> None:
        """A cycle to report. One that was kept of the same cycle before is replaced."""
        cycle = _cycle_of(report)
        with self._lock:
            self._reports[cycle] = report
        self._write(self._path(REPORTS, cycle), _encoded(report))

    def forget_reports(self, reports: Iterable[OfflineCycle]) -> None:
        """The control plane has these. One that was replaced meanwhile stays."""
        for report in reports:
            cycle = _cycle_of(report)
            with self._lock:
                if self._reports.get(cycle) == report:
                    del self._reports[cycle]
                    self._path(REPORTS, cycle).unlink(missing_ok=True)

    @property
    def denied(self) -> bool:
        """Whether this node was revoked, as far as it knows: it does nothing by itself then."""
        with self._lock:
            return self._denied

    def keep_denied(self, denied: bool) -> None:
        """This is what the control plane has said now."""
        with self._lock:
            if denied == self._denied:
                return
            self._denied = denied
        if denied:
            self._write(self._folder / DENIED, b"")
        else:
            (self._folder / DENIED).unlink(missing_ok=True)

    def _path(self, folder: str, name: GroupId | CycleId) -> Path:
        return self._folder / folder / f"{name}.json"

    def _write(self, path: Path, content: bytes) -> None:
        """A full disk costs what a restart would have gone on with, not the replication."""
        try:
            make_dir(path.parent)
            replace_file(path, content)
        except OSError as problem:
            log.error("not durable", path=str(path), problem=problem.strerror or str(problem))


def _cycle_of(report: OfflineCycle) -> CycleId:
    return successor_cycle(report.base_cycle, report.successor)


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
