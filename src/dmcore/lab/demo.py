"""The main job, shown on a real disk: seed it, change it, replicate the change, recover both points, compare.

Everything is real: a control plane that schedules, an appliance and a connector, mutual TLS, an ext4 file system (or a
copy of the user's own disk), e2fsck.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from dmcore.api.jobs import JobsReply, JobView
from dmcore.api.operator_client import OperatorClient
from dmcore.api.plans import PlanSpec, PlanView
from dmcore.connector.operator import RecoverRequest, VerifyRequest, ask
from dmcore.lab import filesystem as fs
from dmcore.lab.deployment import make_deployment
from dmcore.lab.errors import DemoDiffers, DemoNeedsRoom
from dmcore.lab.following import ExitCodeOf, await_job, await_point, progress_of, report_of
from dmcore.lab.layout import SOURCE, TARGET, Lab
from dmcore.lab.running import RunningLab, running
from dmcore.model.ids import PointId
from dmcore.sources.tracking import start_tracking

MACHINE, DISK, PLAN = "demo", "disk0.img", "demo"
RPO_S = 86_400
"""Long: after the first, the demo says itself when a cycle runs."""
STATS = ("read_bytes", "changed_bytes", "zero_bytes", "sealed_bytes", "wire_bytes", "seconds", "rung", "reason")

COPIES = 8
"""What the demo keeps at its fullest: the disk, a clone, staging, the shadow, two snapshots, two recovered disks."""


class Narrator(Protocol):
    """Who tells a person what happens."""

    def step(self, title: str) -> None:
        """The next thing begins."""
        ...

    def note(self, text: str) -> None:
        """Something worth knowing about it."""
        ...

    def progress(self, event: dict[str, Any]) -> None:
        """How far the running cycle is."""
        ...


@dataclass
class ShownPoint:
    """One of the two points, and what the source was at it."""

    report: dict[str, Any]
    """What the control plane knows of the job."""
    source_sha256: str
    recovered: Path = field(default_factory=Path)
    recovered_sha256: str = ""
    fsck: str = ""

    @property
    def equal(self) -> bool:
        """Whether the point gives back the source as it was."""
        return self.source_sha256 == self.recovered_sha256

    def as_dict(self) -> dict[str, Any]:
        """For `dmctl demo --json`."""
        disk = self.report["disks"][0]
        return {
            "id": self.report["point"],
            "plan": self.report["plan"],
            "job": self.report["job"],
            "cycle": self.report["cycle"],
            "source_time": self.report["source_time"],
            "disks": [
                {
                    "disk": disk["disk"],
                    "path": str(self.recovered),
                    "sha256_source": self.source_sha256,
                    "sha256_recovered": self.recovered_sha256,
                }
            ],
            "stats": {name: disk[name] for name in STATS},
            "seconds_by_stage": self.report["seconds"],
            "fsck": self.fsck,
        }


@dataclass(frozen=True)
class Watch:
    """Follows what the lab's control plane says of jobs."""

    roles: RunningLab
    operator: OperatorClient
    tell: Narrator
    exit_code_of: ExitCodeOf

    def cycle(self, plan: PlanView, start: Callable[[], JobsReply]) -> dict[str, Any]:
        """A cycle of the plan's one group, from its job to its point in the index.

        Raises:
            JobFailed: it ended without a point. NodeFailed: a role has ended.
        """

        def shown(job: JobView) -> None:
            self.roles.require_running()
            self.tell.progress(progress_of(job))

        job = await_job(self.operator, start, shown, self.exit_code_of)
        await_point(self.operator, plan.id, job, self.roles.require_running)
        return report_of(job)


class Demo:
    """One run in a directory of its own. The user's image is only ever read."""

    def __init__(self, workdir: Path, image: Path | None, narrator: Narrator, exit_code_of: ExitCodeOf) -> None:
        self._workdir, self._image, self._tell, self._exit_code_of = workdir, image, narrator, exit_code_of
        self._scratch = workdir / "scratch"

    def run(self) -> list[ShownPoint]:
        """All of it.

        Raises:
            DemoDiffers: a point does not give back what was at the source. DmcoreError: something else failed.
        """
        require_room(self._workdir, fs.data_bytes(self._image) * COPIES)
        lab = make_deployment(self._workdir)
        self._scratch.mkdir()
        disk = self._make_disk(lab)
        self._tell.step("Start a control plane, a connector and an appliance")
        with running(lab, self._tell.note) as roles, lab.operator() as operator:
            watch = Watch(roles, operator, self._tell, self._exit_code_of)
            self._tell.step("Seed: a plan is made, its first cycle is due at once, and sends the whole disk")
            sha256 = fs.sha256_of(disk)
            plan = operator.create_plan(
                PlanSpec(name=PLAN, source=SOURCE, target=TARGET, machines=(MACHINE,), rpo_s=RPO_S)
            )
            points = [ShownPoint(watch.cycle(plan, lambda: operator.jobs(plan=plan.id)), sha256)]
            self._change(disk)
            self._tell.step("Delta: the plan is run again; only the change is read and sent")
            sha256 = fs.sha256_of(disk)
            points.append(ShownPoint(watch.cycle(plan, lambda: operator.run_plan(plan.id)), sha256))
            self._recover(lab, points)
            self._verify(lab, points[-1])
        shutil.rmtree(self._scratch)
        return points

    def _make_disk(self, lab: Lab) -> Path:
        folder = lab.source / MACHINE
        folder.mkdir()
        disk = folder / DISK
        if self._image is None:
            self._tell.step("Make an ext4 file system of this machine's files")
            count = fs.make_file_system(disk, self._scratch)
            self._tell.note(f"{count} files on a disk of {disk.stat().st_size >> 20} MiB")
        else:
            self._tell.step(f"Copy {self._image}, which is only read")
            fs.copy_disk(self._image, disk)
        start_tracking(disk)
        return disk

    def _change(self, disk: Path) -> None:
        """On a clone, by debugfs; what differs is then written to the protected disk through the tracked writer."""
        self._tell.step("Change the disk as a user would")
        clone = self._scratch / "clone.img"
        fs.copy_disk(disk, clone)
        done = fs.change_file_system(clone, self._scratch) if fs.is_ext(clone) else fs.change_blocks(clone)
        written = fs.write_differences(clone, disk)
        clone.unlink()
        self._tell.note(f"{', '.join(done)}: {written >> 10} KiB of the disk differ")

    def _recover(self, lab: Lab, points: list[ShownPoint]) -> None:
        self._tell.step("Recover both points, and compare them with the source as it was")
        for number, shown in enumerate(points, 1):
            folder = lab.root / "recovered" / f"point-{number}"
            folder.parent.mkdir(exist_ok=True)
            request = RecoverRequest(point=PointId(UUID(shown.report["point"])), folder=folder)
            shown.recovered = Path(ask(lab.connector_socket, request)[0]["path"])
            shown.recovered_sha256 = fs.sha256_of(shown.recovered)
            if not shown.equal:
                raise DemoDiffers(point=shown.report["point"], path=str(shown.recovered), workdir=str(lab.root))
            if fs.is_ext(shown.recovered):
                shown.fsck = fs.check_file_system(shown.recovered)

    def _verify(self, lab: Lab, shown: ShownPoint) -> None:
        self._tell.step("Verify the newest point against its digests")
        checked = ask(lab.connector_socket, VerifyRequest(point=PointId(UUID(shown.report["point"]))))
        self._tell.note(f"{checked['checked_bytes'] >> 20} MiB read, {checked['damaged_blocks']} blocks damaged")


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raises DemoNeedsRoom if the folder, or where it will be made, has less free space."""
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(existing).free
    if free < needed_bytes:
        raise DemoNeedsRoom(path=str(folder), free_mib=free >> 20, needed_mib=needed_bytes >> 20)


def clean(workdir: Path) -> None:
    """Remove what a demo has made."""
    shutil.rmtree(workdir, ignore_errors=True)
