"""Whole cycles under test: a real connector in this process, real TLS, any source."""

from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from dmcore.api.jobs import Codec, Job
from dmcore.appliance.agent import make_pools
from dmcore.appliance.cycle import Cycle
from dmcore.appliance.link import Link
from dmcore.appliance.pairing import Pairing, pair
from dmcore.appliance.progress import CycleProgress, CycleReport, DiskStats
from dmcore.appliance.pump import Pools
from dmcore.appliance.transfer import Tools
from dmcore.connector.daemon import Connector
from dmcore.keys.local import LocalKek
from dmcore.lab.layout import make_lab
from dmcore.model.enums import Rung
from dmcore.model.ids import PointId
from dmcore.node.identity import load_identity
from dmcore.node.settings import load_appliance, load_connector
from dmcore.shadow.group import GroupShadow
from dmcore.sources.base import Source
from tests.appliance.proxy import Proxy
from tests.shadow.group_lab import read_snapshot

KIB, MIB = 1 << 10, 1 << 20
BLOCK = 4 * KIB


def noise(size: int, seed: int = 1) -> bytes:
    """Incompressible."""
    return np.random.default_rng(seed).bytes(size)


def text(size: int, seed: int = 1) -> bytes:
    """Compressible, and no two blocks alike."""
    line = np.random.default_rng(seed).integers(97, 101, size, dtype=np.uint8)
    return line.tobytes()


class CycleLab:
    """A lab whose connector runs, with the appliance paired through a proxy."""

    def __init__(self, root: Path, *, block_bytes: int = BLOCK) -> None:
        self.lab = make_lab(root)
        self.settings = load_appliance(self.lab.appliance_config)
        self.block_bytes = block_bytes
        self.pools: Pools = make_pools(self.settings.limits.buffer_bytes)
        self.keys = LocalKek(self.settings.kek.file, self.settings.kek.fingerprint)
        self.identity = load_identity(self.settings.state_dir)
        with ExitStack() as undo:
            self.start_connector()
            undo.callback(self.stop_connector)
            self.pairing: Pairing = pair(
                self.connector.pair_token(self.settings.site),
                self.identity,
                self.settings.site,
                self.settings.state_dir,
            )
            self.proxy = Proxy(self.pairing.address)
            undo.callback(self.proxy.close)
            self._undo = undo.pop_all()

    def close(self) -> None:
        self._undo.close()

    def start_connector(self) -> None:
        self.connector = Connector(load_connector(self.lab.connector_config))
        self.connector.start()

    def stop_connector(self) -> None:
        self.connector.stop()

    def restart_connector(self) -> None:
        self.stop_connector()
        self.start_connector()

    # cycles

    @property
    def tools(self) -> Tools:
        link = Link.of(replace(self.pairing, address=self.proxy.address), self.identity)
        return Tools(link, self.keys, self.pools, self.block_bytes, Codec.LZ4, parallel_disks=4)

    def job(self, machines: Iterable[str] = ("vm",), *, codec: Codec | None = None, resync: Rung | None = None) -> Job:
        return self.lab.new_job(list(machines), datetime.now(UTC), codec=codec, resync=resync)[0]

    def next_attempt(self, job: Job) -> Job:
        return self.lab.next_attempt(job, datetime.now(UTC))[0]

    def cycle(self, source: Source, job: Job | None = None, **tools: Any) -> Cycle:
        return Cycle(job or self.job(), source, replace(self.tools, **tools), CycleProgress())

    def run(self, source: Source, job: Job | None = None, **tools: Any) -> CycleReport:
        report = self.cycle(source, job, **tools).run()
        self.settle()
        return report

    def settle(self) -> None:
        """A point is answered before its cycle is finished: finish it, so that the next one finds no busy connector."""
        for shadow in self.connector.groups.all():
            while shadow.advance(lambda _: None) is not None:
                pass

    # what the connector has

    @property
    def shadow(self) -> GroupShadow:
        (shadow,) = self.connector.groups.all()
        return shadow

    def points(self) -> list[PointId]:
        return [point.id for shadow in self.connector.groups.all() for point in shadow.catalogue.all()]

    def images(self, point: PointId) -> dict[tuple[str, str], bytes]:
        """What a point gives back, by machine and disk."""
        found = self.shadow.catalogue.get(point)
        target = self.connector.groups.target(found.target)
        return {(disk.machine, disk.label): read_snapshot(target, disk.snapshot) for disk in found.disks}

    def image(self, report: CycleReport) -> bytes:
        """The same for a group of one disk."""
        (image,) = self.images(report.point).values()
        return image


def only(report: CycleReport) -> DiskStats:
    (disk,) = report.disks
    return disk
