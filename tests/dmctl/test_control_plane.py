"""The commands against a real control plane: HTTPS, a pinned certificate, SQLite. Its nodes are this test's."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from dmcore.api.base import Problem
from dmcore.api.jobs import DiskTotals, Job, JobResult, Outcome, Progress
from dmcore.api.points import PointFact
from dmcore.control.plane import initialise
from dmcore.control.server import ControlServer
from dmcore.control.settings import ControlPlaneSettings
from dmcore.errors import ExitCode
from dmcore.host.address import Address
from dmcore.host.clock import utc_now
from dmcore.model.enums import Consistency, Reason, Role, Rung, Stage
from dmcore.model.ids import DiskId, point_id
from dmcore.model.points import PointState
from dmcore.node.control_client import NodeClient
from dmcore.node.enrolment import enroll
from dmcore.node.identity import load_identity
from dmcore.node.offer import Offer
from tests.dmctl.conftest import Dmctl

APPLIANCE = Offer(sources=("vms",))
CONNECTOR = Offer(targets=("shadows",), recoveries=("standby",))
CREATE = ["plan", "create", "web", "--source", "vms", "--machine", "web1", "--target", "shadows", "--rpo", "5m"]
WAIT_S = 10


@pytest.fixture
def settings(tmp_path: Path) -> ControlPlaneSettings:
    return ControlPlaneSettings(state_dir=tmp_path / "control", listen=Address("127.0.0.1", 0))


@pytest.fixture
def token(settings: ControlPlaneSettings) -> str:
    return initialise(settings).secret


@pytest.fixture
def server(settings: ControlPlaneSettings, token: str) -> Iterator[ControlServer]:
    with ControlServer(settings) as running:
        yield running


@pytest.fixture
def login(dmctl: Dmctl, server: ControlServer, token: str) -> str:
    """Log in with all rights; gives the URL."""
    url = f"https://{server.address}"
    fingerprint = server.plane.certificate.fingerprint
    result = dmctl("login", url, "--fingerprint", fingerprint, "--token-file", "-", input=token)
    assert result.exit_code == 0, result.stderr
    return url


def answer(dmctl: Dmctl, *arguments: object) -> Any:
    """A command's JSON."""
    result = dmctl(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


@contextmanager
def enrolled(dmctl: Dmctl, state_dir: Path, site: str, role: Role) -> Iterator[NodeClient]:
    """A node that has not said yet what it has."""
    joining = dmctl("join", "create", "--site", site, "--role", role)
    assert joining.exit_code == 0, joining.stderr
    identity = load_identity(state_dir)
    client = NodeClient(enroll(joining.stdout.strip(), identity, site, role, state_dir), identity)
    try:
        yield client
    finally:
        client.close()


@pytest.fixture
def nodes(dmctl: Dmctl, login: str, tmp_path: Path) -> Iterator[tuple[NodeClient, NodeClient]]:
    """An appliance and a connector, each at a site of its own; nothing has been heard of them yet."""
    for site in ("paris", "aws"):
        assert dmctl("site", "create", site).exit_code == 0
    with (
        enrolled(dmctl, tmp_path / "appliance", "paris", Role.APPLIANCE) as appliance,
        enrolled(dmctl, tmp_path / "connector", "aws", Role.CONNECTOR) as connector,
    ):
        yield appliance, connector


def polled(nodes: tuple[NodeClient, NodeClient]) -> None:
    appliance, connector = nodes
    appliance.poll(APPLIANCE)
    connector.poll(CONNECTOR)


def claimed(appliance: NodeClient) -> Job:
    """The job that is due. A poll is also answered when there are other plans than the asker knows."""
    reply = appliance.poll(APPLIANCE, wait_s=WAIT_S)
    if reply.job is None:
        reply = appliance.poll(APPLIANCE, plans_version=reply.plans_version, wait_s=WAIT_S)
    assert reply.job is not None
    return reply.job


def run_a_cycle(appliance: NodeClient, connector: NodeClient, problem: Problem | None = None) -> None:
    """What two nodes do about the job that is due: report its progress, its point, its end."""
    job = claimed(appliance)
    disk = DiskTotals(disk=DiskId(job.group), rung=Rung.SEED, reason=Reason.NO_IMAGE, to_read_bytes=9, read_bytes=9)
    progress = Progress(stage=Stage.TRANSFER, counter=1, done_bytes=9, total_bytes=9, disks=(disk,))
    appliance.heartbeat(job.job, job.epoch, progress)
    if problem is not None:
        appliance.outcome(job.job, Outcome(epoch=job.epoch, result=JobResult.FAILED, problem=problem))
        return
    now = utc_now()
    fact = PointFact(
        id=point_id(job.cycle, job.group), plan=job.plan, group=job.group, cycle=job.cycle,
        source_time=now - timedelta(seconds=1), consistency=Consistency.CRASH, state=PointState.AVAILABLE, disks=1,
        rungs=(Rung.SEED,),
    )  # fmt: skip
    connector.points([fact])
    appliance.outcome(
        job.job,
        Outcome(
            epoch=job.epoch, result=JobResult.COMPLETED, point=fact.id, source_time=fact.source_time, progress=progress,
            seconds={Stage.TRANSFER: 1.5},
        ),
    )  # fmt: skip


@contextmanager
def meanwhile(*arguments: Any) -> Iterator[None]:
    """The nodes' part, in a thread of its own."""
    thread = threading.Thread(target=run_a_cycle, args=arguments)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def test_from_login_to_status(dmctl: Dmctl, nodes: tuple[NodeClient, NodeClient]) -> None:
    early = dmctl(*CREATE)
    assert early.exit_code == ExitCode.REFUSED
    assert "alias.nowhere" in early.stderr
    polled(nodes)
    assert {each["role"]: each["live"] for each in answer(dmctl, "node", "list")["nodes"]} == {
        "appliance": True,
        "connector": True,
    }
    plan = answer(dmctl, *CREATE, "--limit", "100MB/s", "--limit-window", "mon-fri 08:00-18:00 20MB/s")
    assert answer(dmctl, "plan", "list")["plans"][0]["id"] == plan["id"]
    assert (plan["site"], plan["connector"]) == ("paris", nodes[1].node)
    status = answer(dmctl, "status")
    assert [each["name"] for each in status["plans"]] == ["web"]
    assert "web" in dmctl("status").stdout
    shown = dmctl("plan", "show", plan["id"][:8]).stdout
    assert "100MB/s; mon-fri 08:00-18:00 20MB/s; UTC" in shown
    assert dmctl(*CREATE).exit_code == ExitCode.REFUSED  # there is one already


@pytest.mark.usefixtures("no_wait")
def test_a_cycle_is_watched_and_its_point_verified(dmctl: Dmctl, nodes: tuple[NodeClient, NodeClient]) -> None:
    polled(nodes)
    assert dmctl(*CREATE).exit_code == 0
    with meanwhile(*nodes):
        result = dmctl("plan", "run", "web", "--wait")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines()[-1].split(" (web1): ")[1].startswith("done in ")
    (point,) = answer(dmctl, "point", "list", "--plan", "web")["points"]
    job = answer(dmctl, "job", "list", "--state", "completed")["jobs"][0]
    assert job["point"] == point["id"]
    assert dmctl("job", "show", job["id"][:8]).exit_code == 0
    asked = answer(dmctl, "point", "verify", "latest")
    work = nodes[1].poll(CONNECTOR, wait_s=WAIT_S).work
    assert work is not None
    assert str(work.job) == asked["id"]
    nodes[1].outcome(work.job, Outcome(epoch=work.epoch, result=JobResult.COMPLETED))
    assert dmctl("job", "watch", asked["id"]).exit_code == 0
    assert "web" in dmctl("status").stdout


@pytest.mark.usefixtures("no_wait")
def test_a_failed_cycle_is_the_exit_code(dmctl: Dmctl, nodes: tuple[NodeClient, NodeClient]) -> None:
    polled(nodes)
    assert dmctl(*CREATE).exit_code == 0
    problem = Problem(code="source.changed", permanent=True, correlation="ab" * 16)
    with meanwhile(*nodes, problem):
        result = dmctl("plan", "run", "web", "--wait")
    assert result.exit_code == ExitCode.SOURCE
    assert f"it failed with source.changed; the log of node {nodes[0].node[:12]} says more" in result.stderr
    assert "source.changed" in dmctl("status").stdout
    assert "job.failed" in dmctl("event", "list").stdout


def test_a_plan_is_edited_paused_and_deleted(dmctl: Dmctl, nodes: tuple[NodeClient, NodeClient]) -> None:
    polled(nodes)
    plan = answer(dmctl, *CREATE)
    edited = answer(dmctl, "plan", "edit", "web", "--rpo", "10m", "--name", "www")
    assert (edited["id"], edited["rpo_s"], edited["name"], edited["machines"]) == (plan["id"], 600, "www", ["web1"])
    assert answer(dmctl, "plan", "pause", "www")["paused"]
    assert dmctl("plan", "run", "www").exit_code == ExitCode.REFUSED
    assert not answer(dmctl, "plan", "resume", "www")["paused"]
    assert dmctl("plan", "delete", "www", "--yes").exit_code == 0
    assert answer(dmctl, "plan", "list") == {"plans": [], "more": False}
    assert "plan.deleted" in dmctl("audit", "list").stdout


def test_a_role_that_may_not(dmctl: Dmctl, server: ControlServer, login: str) -> None:
    made = answer(dmctl, "token", "create", "monitoring", "--role", "viewer")
    fingerprint = server.plane.certificate.fingerprint
    viewer = dmctl("login", login, "--fingerprint", fingerprint, "--token-file", "-", input=made["secret"])
    assert viewer.exit_code == 0
    assert dmctl("status").exit_code == 0
    for command in (["site", "create", "x"], ["token", "list"], ["audit", "list"]):
        refused = dmctl(*command)
        assert refused.exit_code == ExitCode.REFUSED
        assert "this needs the role admin; the token's is viewer" in refused.stderr


def test_a_revoked_token_is_good_for_nothing(dmctl: Dmctl, login: str) -> None:
    assert dmctl("token", "revoke", "first", "--yes").exit_code == 0
    result = dmctl("status")
    assert result.exit_code == ExitCode.TRUST
    assert "auth.required" in result.stderr


def test_another_certificate_is_sent_nothing(dmctl: Dmctl, server: ControlServer, token: str) -> None:
    url = f"https://{server.address}"
    result = dmctl("login", url, "--fingerprint", "ab" * 32, "--token-file", "-", input=token)
    assert result.exit_code == ExitCode.TRUST
    assert "nothing was sent" in result.stderr
    assert dmctl("login", url, "--system-ca", "--token-file", "-", input=token).exit_code == ExitCode.TRUST


def test_a_token_of_another_control_plane(dmctl: Dmctl, server: ControlServer) -> None:
    fingerprint = server.plane.certificate.fingerprint
    options = ["--fingerprint", fingerprint, "--token-file", "-"]
    result = dmctl("login", f"https://{server.address}", *options, input="dmo_" + "A" * 43)
    assert result.exit_code == ExitCode.TRUST
    assert dmctl("status").exit_code == ExitCode.CONFIGURATION  # nobody is logged in


def test_a_control_plane_that_was_stopped(dmctl: Dmctl, server: ControlServer, login: str) -> None:
    server.stop()
    result = dmctl("plan", "list")
    assert result.exit_code == ExitCode.CONNECTION
    assert "control.unreachable" in result.stderr
