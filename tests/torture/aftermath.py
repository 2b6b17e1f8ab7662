"""What must hold once the killing is over: it goes on at once, every point is right, nothing is left behind."""

import hashlib
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from dmcore.api.operator_client import OperatorClient
from dmcore.api.plans import PlanEdit
from dmcore.connector.operator import PointsRequest, RecoverRequest, StatusRequest, VerifyRequest, ask
from dmcore.model.ids import PlanId
from dmcore.model.jobs import IN_FLIGHT, JobState
from tests.torture.roles import Roles, await_
from tests.torture.writer import Machine

HEARTBEATS = 3
SETTLE_S = 60.0


class Aftermath:
    """Checks; each raises AssertionError, saying what is wrong."""

    def __init__(self, roles: Roles, operator: OperatorClient, plan: PlanId, machines: list[Machine]) -> None:
        self._lab, self._roles, self._operator = roles.lab, roles, operator
        self._plan, self._machines = plan, machines

    def progress(self, heartbeat_s: float) -> Counter[str]:
        """All roles answer from now on: soon every machine has a point that is younger than now."""
        now, limit_s = time.time(), HEARTBEATS * heartbeat_s
        await_(lambda: self._have_points_since(now), limit_s, "every machine has a new point", self._roles)
        return Counter({"ms until all machines had a new point": int(1000 * (time.time() - now))})

    def _have_points_since(self, moment: float) -> bool:
        renewed = {point["disks"][0]["machine"] for point in self.points() if when(point) > moment}
        return len(renewed) == len(self._machines)

    def check(self) -> Counter[str]:
        """All of it, after a last quiet cycle of every machine."""
        self._quiet()
        self._last_cycles()
        tally = self._points_are_right()
        self._index_agrees()
        self._nothing_is_left()
        return tally + self._jobs()

    def points(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = ask(self._lab.connector_socket, PointsRequest())
        return found

    # coming to rest

    def _quiet(self) -> None:
        self._operator.edit_plan(self._plan, PlanEdit(rpo_s=86_400))
        await_(self._idle, SETTLE_S, "no job is in flight", self._roles)

    def _idle(self) -> bool:
        return not any(job.state in IN_FLIGHT for job in self._operator.jobs(plan=self._plan).jobs)

    def _last_cycles(self) -> None:
        jobs = self._operator.run_plan(self._plan).jobs
        await_(self._idle, SETTLE_S, "the last cycles are over", self._roles)
        ended = [self._operator.job(job.id) for job in jobs]
        assert [job.state for job in ended] == [JobState.COMPLETED] * len(self._machines), ended
        await_(lambda: {str(job.point) for job in ended} <= {point["id"] for point in self.points()}, 5, "their points")

    # points

    def _points_are_right(self) -> Counter[str]:
        points = self.points()
        for machine in self._machines:
            own = sorted((p for p in points if p["disks"][0]["machine"] == machine.name), key=when)
            for point, expected in zip(own, machine.possible([when(point) for point in own]), strict=True):
                found = self._recovered(point)
                assert found in expected, f"point {point['id']} of {machine.name} is not what was at its source"
            ask(self._lab.connector_socket, VerifyRequest.model_validate({"point": own[-1]["id"]}))
        return Counter({"points compared": len(points), "writes": sum(len(m.writes) for m in self._machines)})

    def _recovered(self, point: dict[str, Any]) -> dict[str, str]:
        folder = self._lab.root / "compared"
        request = RecoverRequest.model_validate({"point": point["id"], "folder": folder})
        disks = ask(self._lab.connector_socket, request)
        found = {disk["label"]: hashlib.sha256(Path(disk["path"]).read_bytes()).hexdigest() for disk in disks}
        shutil.rmtree(folder)
        return found

    def _index_agrees(self) -> None:
        catalogue = {(point["id"], when(point)) for point in self.points()}
        await_(lambda: self._index() == catalogue, 10, "the index has what the catalogue has", self._roles)

    def _index(self) -> set[tuple[str, float]]:
        reply = self._operator.points(plan=self._plan, limit=500)
        assert not reply.more, "more points than can be compared: ask for fewer kills"
        return {(str(point.id), point.source_time.timestamp()) for point in reply.points}

    def _jobs(self) -> Counter[str]:
        tally = Counter[str]()
        for job in self._operator.jobs(plan=self._plan, limit=500).jobs:
            tally[f"jobs {job.state}"] += 1
            tally["jobs offline"] += job.offline
            if job.problem:
                tally[f"problem {job.problem.code}"] += 1
        return tally

    # leftovers

    def _nothing_is_left(self) -> None:
        root = self._lab.root
        await_(lambda: not list((root / "connector" / "staging").glob("*/*")), 10, "staging is removed", self._roles)
        await_(lambda: not list(untold(root)), 10, "the control plane is told of all", self._roles)
        nothing("source snapshots", (self._lab.source / ".dmcore-snapshots").glob("*"))
        nothing("temporary files", temporary_files(root))
        groups = ask(self._lab.connector_socket, StatusRequest())
        nothing("problems", (group["problem"] for group in groups if group["problem"]))

    def nothing_runs(self) -> None:
        """Of the lab: no process has one of its files open. The database is whole."""
        nothing("users of the lab's files", users_of(self._lab.root))
        with closing(sqlite3.connect(self._lab.root / "control" / "control.db")) as database:
            assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def nothing(what: str, found: Iterable[object]) -> None:
    left = list(map(str, found))
    assert not left, f"{what} are left: {left}"


def when(point: dict[str, Any]) -> float:
    return datetime.fromisoformat(point["source_time"]).timestamp()


def untold(root: Path) -> Iterator[Path]:
    """What nodes keep until the control plane has it."""
    yield from root.glob("*/control/outcomes/*")
    yield from root.glob("appliance/control/reports/*")
    yield from root.glob("connector/outbox/*")


KEPT = {".dmcore-lock", ".dmcore-snapshots"}
UNFINISHED = {".new", ".tmp", ".partial"}


def temporary_files(root: Path) -> Iterator[Path]:
    """What is being written begins with a dot, or ends in one of these."""
    for path in root.rglob("*"):
        if (path.name.startswith(".") or path.suffix in UNFINISHED) and path.name not in KEPT:
            yield path


def users_of(root: Path) -> Iterator[str]:
    """Processes that have a file below a folder open."""
    for link in Path("/proc").glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if link.readlink().is_relative_to(root):
                yield f"{link.parts[2]}: {link.readlink()}"
