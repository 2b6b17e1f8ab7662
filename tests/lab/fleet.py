"""Labs of real processes that a test may stop, kill and double: set up once for a module, copied for each test."""

import random
import shutil
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from dmcore.api.jobs import JobView
from dmcore.api.limits import Limit
from dmcore.api.operator_client import OperatorClient
from dmcore.api.plans import PlanSpec, PlanView
from dmcore.connector.operator import PointsRequest, RecoverRequest, ask
from dmcore.lab.deployment import Deployment, make_deployment
from dmcore.lab.layout import SOURCE, TARGET
from dmcore.model.jobs import IN_FLIGHT, JobState
from dmcore.sources.tracking import start_tracking
from tests.torture.roles import READY_S, ForkServer, Roles, await_, started

MIB = 1 << 20
DISK_BYTES = 10 * MIB
SLOW = Limit(bytes_s=2 * MIB)
RPO_S = 86_400


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with closing(ForkServer()) as held:
        yield held


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory, server: ForkServer) -> Path:
    """A lab that was set up once: leases end soon, one machine of one disk."""
    lab = make_deployment(tmp_path_factory.mktemp("template") / "lab")
    settings = lab.control_config.read_text().replace("lease_s = 20", "lease_s = 3")
    lab.control_config.write_text(settings + "tick_s = 0.2\n")
    with lab.connector_config.open("a") as config:
        config.write("\n[staging]\nreserve_bytes = 0\n")
    write_disk(lab, "web1", 1)
    with started(lab, server) as roles:
        roles.stop_all()
    return lab.root


@dataclass
class Up:
    """A lab whose roles run."""

    lab: Deployment
    roles: Roles
    operator: OperatorClient


@contextmanager
def copy_of(template: Path, root: Path, server: ForkServer) -> Iterator[Up]:
    shutil.copytree(template, root, ignore=shutil.ignore_patterns("*.sock"))
    lab = Deployment(root)
    try:
        with started(lab, server) as roles, lab.operator() as operator:
            yield Up(lab, roles, operator)
    finally:
        shutil.rmtree(root)


@pytest.fixture(params=["own-file-system", "xfs"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path, template: Path, server: ForkServer) -> Iterator[Up]:
    root = tmp_path / "lab"
    if request.param == "xfs":
        root = Path(request.getfixturevalue("xfs")) / tmp_path.name
    with copy_of(template, root, server) as up:
        yield up


@pytest.fixture
def up(tmp_path: Path, template: Path, server: ForkServer) -> Iterator[Up]:
    with copy_of(template, tmp_path / "lab", server) as up:
        yield up


def write_disk(lab: Deployment, machine: str, seed: int) -> Path:
    path = lab.source / machine / "disk0.img"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(random.Random(seed).randbytes(DISK_BYTES))
    start_tracking(path)
    return path


def protect(operator: OperatorClient, *machines: str, limit: Limit = SLOW) -> PlanView:
    spec = PlanSpec(name="web", source=SOURCE, target=TARGET, machines=machines, rpo_s=RPO_S, limit=limit)
    return operator.create_plan(spec)


def staged_bytes(lab: Deployment) -> int:
    """What is in staging, roughly: it changes meanwhile."""
    total = 0
    with suppress(FileNotFoundError):
        for path in (lab.root / "connector" / "staging").glob("*/*/*/*"):
            total += path.stat().st_blocks * 512
    return total


def has_staged(lab: Deployment, count: int) -> bool:
    return staged_bytes(lab) > count


def snapshots(lab: Deployment) -> set[str]:
    return {path.name for path in (lab.source / ".dmcore-snapshots").glob("*")}


def points(lab: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(lab.connector_socket, PointsRequest())
    return found


def recovered(lab: Deployment, point: object) -> bytes:
    folder = lab.root / "compared"
    (disk,) = ask(lab.connector_socket, RecoverRequest.model_validate({"point": point, "folder": folder}))
    data = Path(disk["path"]).read_bytes()
    shutil.rmtree(folder)
    return data


def log_of(lab: Deployment, name: str) -> str:
    path = lab.logs / f"{name}.log"
    return path.read_text() if path.exists() else ""


def newest_job(operator: OperatorClient, plan: PlanView) -> JobView:
    return operator.job(operator.jobs(plan=plan.id).jobs[0].id)  # a list leaves out what its disks came to


def run_to_its_end(up: Up, plan: PlanView) -> JobView:
    """Run it now, or wait for what runs already."""
    (job,) = up.operator.run_plan(plan.id).jobs
    await_(lambda: up.operator.job(job.id).state not in IN_FLIGHT, READY_S, "the job has ended", up.roles)
    ended = up.operator.job(job.id)
    assert ended.state is JobState.COMPLETED, ended
    return ended
