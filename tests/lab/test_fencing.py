"""Whoever slept while the world went on is told so by the connector, and harms nothing: real processes throughout."""

import shutil
import signal
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from dmcore.api.jobs import JobView
from dmcore.api.limits import NO_LIMIT, Limit
from dmcore.api.operator_client import OperatorClient
from dmcore.api.operators import EventKind, JoinSpec
from dmcore.api.plans import PlanEdit, PlanSpec
from dmcore.appliance.pairing import pair
from dmcore.connector.operator import PairTokenRequest, StatusRequest, ask
from dmcore.lab.deployment import Deployment
from dmcore.lab.layout import SITE_SOURCE, SOURCE, TARGET, free_ports
from dmcore.lab.setup import control_answers
from dmcore.model.enums import Role
from dmcore.model.ids import CycleId, GroupId, source_snapshot_name
from dmcore.model.jobs import JobState
from dmcore.node.enrolment import enroll
from dmcore.node.identity import load_identity
from tests.filesystems import xfs
from tests.lab.fleet import (
    MIB,
    RPO_S,
    SLOW,
    Up,
    anywhere,
    has_staged,
    log_of,
    newest_job,
    points,
    protect,
    recovered,
    run_to_its_end,
    server,
    snapshots,
    staged_bytes,
    template,
    up,
    write_disk,
)
from tests.lab.roles import dmctl
from tests.torture.roles import READY_S, await_

__all__ = ["anywhere", "server", "template", "up", "xfs"]

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

SLOWER = Limit(bytes_s=MIB // 4)
OTHER = "other-appliance"
LESS_THAN_A_HANDSHAKE_BYTES = 256
"""By so much two connections differ that carry the same: signatures and numbers have lengths."""


def enroll_another(lab: Deployment, operator: OperatorClient) -> tuple[str, Path]:
    """A second appliance at the same site, with the same sources. Returns its id and its settings."""
    config = lab.root / "other.toml"
    text = lab.appliance_config.read_text()
    assert 'state_dir = "appliance"' in text
    config.write_text(text.replace('state_dir = "appliance"', f'state_dir = "{OTHER}"'))
    state = lab.root / OTHER
    identity = load_identity(state)
    join = operator.create_join(JoinSpec(site=SITE_SOURCE, role=Role.APPLIANCE)).token
    enroll(join, identity, SITE_SOURCE, Role.APPLIANCE, state)
    pair(ask(lab.connector_socket, PairTokenRequest(site=SITE_SOURCE))["token"], identity, SITE_SOURCE, state)
    return identity.node, config


class Overtaken:
    """An appliance that was stopped in the middle of a transfer, and another one that has its job now, and is slow."""

    def __init__(self, up: Up) -> None:
        self.up, self.lab, self.operator = up, up.lab, up.operator
        node, config = enroll_another(self.lab, self.operator)
        up.roles.add(OTHER, "appliance", "run", "--config", str(config))
        self.plan = protect(self.operator, "web1")
        self.await_(lambda: staged_bytes(self.lab) > MIB, "some of the seed is staged")
        self.sleeper = up.roles.running["appliance"]
        self.sleeper.signal(signal.SIGSTOP)
        self.operator.edit_plan(self.plan.id, PlanEdit(limit=SLOWER))
        up.roles.start(OTHER)
        self.await_(lambda: self.job.node == node and self.job.state is JobState.RUNNING, "the other one has the job")
        self.await_(lambda: "cycle begun" in log_of(self.lab, OTHER), "it has begun")

    @property
    def job(self) -> JobView:
        return newest_job(self.operator, self.plan)

    @property
    def snapshot(self) -> str:
        """The source snapshot of the other one's cycle."""
        assert self.job.cycle is not None
        return source_snapshot_name(GroupId(self.plan.groups[0].id), CycleId(self.job.cycle))

    def await_(self, condition: Callable[[], bool], what: str) -> None:
        await_(condition, READY_S, what, self.up.roles)

    def finish(self) -> JobView:
        """Let the other one come to its end."""
        self.operator.edit_plan(self.plan.id, PlanEdit(limit=NO_LIMIT))
        self.await_(lambda: self.job.state is JobState.COMPLETED, "the other one has its point")
        return self.job

    def wake(self) -> str:
        """Let it go on, until its attempt is over. Returns what it said since."""
        before = len(log_of(self.lab, "appliance"))
        self.sleeper.signal(signal.SIGCONT)
        self.await_(lambda: "attempt ended" in log_of(self.lab, "appliance")[before:], "the attempt is over")
        return log_of(self.lab, "appliance")[before:]


def test_one_that_wakes_while_its_successor_sends(anywhere: Up) -> None:
    """It stops, and the successor goes on with its snapshot, which may be the one that both know."""
    lab, overtaken = anywhere.lab, Overtaken(anywhere)
    has_snapshots = overtaken.snapshot in snapshots(lab)
    assert "completed" not in overtaken.wake()
    assert overtaken.job.state is JobState.RUNNING
    assert (overtaken.snapshot in snapshots(lab)) == has_snapshots
    job = overtaken.finish()
    (point,) = points(lab)
    assert point["id"] == str(job.point)
    assert job.epoch > 1
    assert recovered(lab, job.point) == (lab.source / "web1" / "disk0.img").read_bytes()
    assert snapshots(lab) == set()


def test_one_that_wakes_to_no_control_plane_is_refused_by_the_connector(anywhere: Up) -> None:
    """Nobody else could tell it: its lease was lost while it slept, and whoever took it away is gone."""
    lab, roles, overtaken = anywhere.lab, anywhere.roles, Overtaken(anywhere)
    content = (lab.source / "web1" / "disk0.img").read_bytes()
    overtaken.finish()
    known = points(lab)
    roles.kill("control")
    said = overtaken.wake()
    assert "ticket.epoch" in said or "cycle.epoch-behind" in said
    assert points(lab) == known
    assert recovered(lab, known[0]["id"]) == content
    assert snapshots(lab) == set()
    roles.start("control")
    await_(lambda: control_answers(lab), READY_S, "the control plane is back", roles)
    changed = write_disk(lab, "web1", 2).read_bytes()
    job = run_to_its_end(anywhere, overtaken.plan)
    assert recovered(lab, job.point) == changed
    assert snapshots(lab) == set()


class TestTwoConnectors:
    def test_on_one_state_directory(self, up: Up) -> None:
        done = dmctl("connector", "serve", "--config", up.lab.connector_config, code=10)
        assert "another process of this node is running on this state directory" in done.stderr
        assert str(up.lab.root / "connector") in done.stderr

    def test_on_one_target(self, up: Up) -> None:
        """A copy of the state does not help: the folder is another's. What it keeps there stays as it is."""
        lab, roles = up.lab, up.roles
        plan = protect(up.operator, "web1", limit=NO_LIMIT)
        job = run_to_its_end(up, plan)
        before = target_files(lab)
        roles.add("copy", "connector", "serve", "--config", str(copied_connector(lab)))
        roles.start("copy")
        await_((lab.root / "copy" / "connector.sock").exists, READY_S, "the copy answers", roles)
        assert f"{lab.root / 'target'}: in use by another connector" in log_of(lab, "copy")
        (group,) = ask(lab.root / "copy" / "connector.sock", StatusRequest())
        assert "in use by another connector" in group["problem"]
        assert target_files(lab) == before
        roles.kill("copy")
        assert recovered(lab, job.point) == (lab.source / "web1" / "disk0.img").read_bytes()
        run_to_its_end(up, plan)


def target_files(lab: Deployment) -> dict[str, tuple[int, int]]:
    found = (path for path in (lab.root / "target").rglob("*") if path.is_file())
    return {path.name: (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def copied_connector(lab: Deployment) -> Path:
    """A connector with the same state and target, on other ports."""
    ignored = shutil.ignore_patterns("*.sock", "node.lock")
    shutil.copytree(lab.root / "connector", lab.root / "copy", ignore=ignored)
    text, config = lab.connector_config.read_text(), lab.root / "copy.toml"
    assert 'state_dir = "connector"' in text
    lines = [line for line in text.splitlines() if "listen" not in line]
    port, pairing_port = free_ports(2)
    listen = [f'listen = "127.0.0.1:{port}"', f'pairing_listen = "127.0.0.1:{pairing_port}"']
    config.write_text("\n".join([*listen, *lines]).replace('state_dir = "connector"', 'state_dir = "copy"'))
    return config


def test_a_control_plane_from_an_older_copy_goes_on_above_the_connectors_epochs(up: Up) -> None:
    lab, roles = up.lab, up.roles
    database, kept = lab.root / "control" / "control.db", lab.root / "older.db"
    plan = protect(up.operator, "web1", limit=NO_LIMIT)
    run_to_its_end(up, plan)
    with closing(sqlite3.connect(database)) as source, closing(sqlite3.connect(kept)) as copy:
        source.backup(copy)
    assert [run_to_its_end(up, plan).epoch for _ in range(2)] == [2, 3]
    roles.kill("control")
    for path in database.parent.glob("control.db*"):
        path.unlink()
    shutil.copy(kept, database)
    roles.start("control")
    await_(lambda: control_answers(lab), READY_S, "the restored control plane answers", roles)
    changed = write_disk(lab, "web1", 7).read_bytes()
    job = run_to_its_end(up, plan)
    assert job.epoch == 4
    assert EventKind.EPOCH_BEHIND in {event.kind for event in up.operator.events().events}
    assert recovered(lab, job.point) == changed
    assert len(points(lab)) == 4


def test_a_control_plane_that_is_killed_in_the_middle_of_a_seed_costs_no_byte(up: Up) -> None:
    """Two machines of the same content: one is sent undisturbed, one while the control plane is killed twice."""
    lab, roles, operator = up.lab, up.roles, up.operator
    write_disk(lab, "web2", 1)
    calm = protect(operator, "web1", limit=NO_LIMIT)
    undisturbed = run_to_its_end(up, calm)
    spec = PlanSpec(name="cut", source=SOURCE, target=TARGET, machines=("web2",), rpo_s=RPO_S, limit=SLOW)
    plan = operator.create_plan(spec)
    for step in (MIB, 4 * MIB):
        await_(partial(has_staged, lab, step), READY_S, "some of it is staged", roles)
        roles.kill("control")
        roles.start("control")
        await_(lambda: control_answers(lab), READY_S, "the control plane answers again", roles)
    await_(lambda: newest_job(operator, plan).state is JobState.COMPLETED, READY_S, "it has a point", roles)
    job = newest_job(operator, plan)
    assert (job.attempts, job.epoch) == (1, 1)
    (disk,), (calm_disk,) = job.progress.disks, undisturbed.progress.disks
    assert (disk.read_bytes, disk.sealed_bytes) == (calm_disk.read_bytes, calm_disk.sealed_bytes)
    assert disk.wire_bytes <= calm_disk.wire_bytes + LESS_THAN_A_HANDSHAKE_BYTES
    assert recovered(lab, job.point) == (lab.source / "web2" / "disk0.img").read_bytes()
