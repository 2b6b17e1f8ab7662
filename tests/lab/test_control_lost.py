"""A control plane that is killed for good, and one that comes back: real processes, the nodes' own clocks."""

import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dmcore.api.limits import NO_LIMIT, Limit
from dmcore.api.operator_client import OperatorClient
from dmcore.api.plans import PlanEdit, PlanSpec
from dmcore.connector.operator import PointsRequest, ask
from dmcore.lab.deployment import Deployment, make_deployment
from dmcore.lab.layout import SOURCE, TARGET
from dmcore.lab.processes import NodeProcess, start_node
from dmcore.lab.running import RunningLab, running
from dmcore.lab.setup import control_answers
from dmcore.model.ids import PlanId
from dmcore.model.jobs import JobState
from tests.lab.roles import dmctl

pytestmark = [pytest.mark.processes, pytest.mark.timeout(180)]

RPO_S = 5


def make_lab(root: Path, *machines: str) -> Deployment:
    lab = make_deployment(root)
    for machine in machines:
        write_disk(lab, machine, 1)
    return lab


def write_disk(lab: Deployment, machine: str, seed: int, disk_bytes: int = 2 << 20) -> Path:
    path = lab.source / machine / "disk0.img"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(np.random.default_rng(seed).bytes(disk_bytes))
    return path


def control_of(roles: RunningLab) -> NodeProcess:
    return next(role for role in roles.roles if role.name == "control")


def await_(condition: Callable[[], bool]) -> None:
    """The test's timeout bounds it."""
    pause = threading.Event()
    while not condition():
        pause.wait(0.2)


def points(lab: Deployment) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = ask(lab.connector_socket, PointsRequest())
    return found


def create_plan(operator: OperatorClient, *machines: str, limit: Limit = NO_LIMIT) -> PlanId:
    rpo_s = RPO_S if limit == NO_LIMIT else 3600
    spec = PlanSpec(name="web", source=SOURCE, target=TARGET, machines=machines, rpo_s=rpo_s, limit=limit)
    return operator.create_plan(spec).id


def test_stopped_for_good(tmp_path: Path) -> None:
    """Cycles go on without it, and the newest point is given back by the connector alone."""
    lab = make_lab(tmp_path / "lab", "web1")
    with running(lab) as roles, lab.operator() as operator:
        create_plan(operator, "web1")
        await_(lambda: len(points(lab)) >= 1)
        control_of(roles).kill()
        before = {point["cycle"] for point in points(lab)}
        disk = write_disk(lab, "web1", 2)
        changed = disk.stat().st_mtime
        await_(lambda: any(is_after(point, changed) for point in points(lab) if point["cycle"] not in before))
        to = tmp_path / "recovered"
        dmctl("connector", "recover", "latest", "--to", to, "--config", lab.connector_config)
        (recovered,) = to.glob("*.img")
        assert recovered.read_bytes() == disk.read_bytes()


def is_after(point: dict[str, Any], seconds: float) -> bool:
    return datetime.fromisoformat(point["source_time"]).timestamp() > seconds


def test_comes_back(tmp_path: Path) -> None:
    """What was done meanwhile is told of, once, and the control plane goes on from there."""
    lab = make_lab(tmp_path / "lab", "web1")
    with running(lab) as roles, lab.operator() as operator:
        plan = create_plan(operator, "web1")
        await_(lambda: len(operator.points(plan=plan).points) >= 1)
        control_of(roles).kill()
        count = len(points(lab))
        await_(lambda: len(points(lab)) >= count + 2)
        again = start_node(lab, "control", "control", "serve", "--config", str(lab.control_config))
        try:
            await_(lambda: control_answers(lab))
            await_(lambda: known(operator, plan) >= {point["id"] for point in points(lab)})
            await_(lambda: any(job.offline for job in operator.jobs(plan=plan).jobs))
            await_(lambda: any(not job.offline and job.epoch > 1 for job in operator.jobs(plan=plan).jobs))
        finally:
            again.stop()


def known(operator: OperatorClient, plan: PlanId) -> set[str]:
    return {str(point.id) for point in operator.points(plan=plan).points}


def test_two_machines_do_not_wait_for_each_other(tmp_path: Path) -> None:
    """One has its point while the other is still sent, slowly; then the limit is lifted, and it is there at once."""
    lab = make_lab(tmp_path / "lab", "small")
    write_disk(lab, "big", 3, disk_bytes=48 << 20)
    with running(lab), lab.operator() as operator:
        plan = create_plan(operator, "small", "big", limit=Limit(bytes_s=1_000_000))
        await_(lambda: bool(known(operator, plan)))
        (point,) = points(lab)
        assert [disk["machine"] for disk in point["disks"]] == ["small"]
        assert machines_running(operator, plan) == {"big"}
        operator.edit_plan(plan, PlanEdit(limit=NO_LIMIT))
        await_(lambda: {disk["machine"] for point in points(lab) for disk in point["disks"]} == {"small", "big"})


def machines_running(operator: OperatorClient, plan: PlanId) -> set[str]:
    jobs = operator.jobs(plan=plan, state=JobState.RUNNING).jobs
    return {machine for job in jobs for machine in job.machines}
