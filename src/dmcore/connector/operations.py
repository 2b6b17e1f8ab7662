"""What an operator at the connector may ask: points, verify, recover, who is paired, bindings, every group's state."""

from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcore.connector.bindings import Bindings
from dmcore.connector.groups import Groups
from dmcore.connector.keyring import PlanKeyring
from dmcore.connector.paired import PairedList
from dmcore.connector.recovery import Progress, RecoveredDisk, recover_point
from dmcore.model.ids import GroupId, NodeId, PlanId, PointId
from dmcore.seal.derive import digest_key
from dmcore.shadow.errors import PointDamaged, PointUnknown
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.points import Point
from dmcore.shadow.verify import Verifier


@dataclass(frozen=True)
class Operations:
    """Answers are plain values, ready for JSON."""

    groups: Groups
    keyring: PlanKeyring
    bindings: Bindings
    paired_list: PairedList
    make_token: Callable[[str], str]
    cut: Callable[[NodeId, str], int]
    """Ends a node's connections, and says how many those were."""

    def pair_token(self, site: str) -> dict[str, Any]:
        """A token for an appliance at this site: single use, an hour."""
        return {"token": self.make_token(site)}

    def paired(self) -> list[dict[str, Any]]:
        """The appliances that may connect."""
        return [node.model_dump(mode="json") for node in self.paired_list.all()]

    def unpair(self, node: NodeId) -> dict[str, Any]:
        """Let an appliance connect no more, from this moment on.

        Raises:
            Unpaired: it was not paired.
        """
        self.paired_list.unpair(node)
        return {"node": node, "connections_cut": self.cut(node, "an operator unpaired it")}

    def rebind(self, plan: PlanId, group: GroupId, site: str, machines: Sequence[str]) -> dict[str, Any]:
        """Bind a plan to another site, or one of its groups to other machines. Raises as `Bindings.rebind`."""
        return self.bindings.rebind(plan, group, site, machines).model_dump(mode="json")

    def points(self) -> list[dict[str, Any]]:
        """Every recovery point, oldest first."""
        found = [point for catalogue in self.groups.catalogues() for point in catalogue.all()]
        found.sort(key=lambda point: point.source_time)
        return [point.model_dump(mode="json") for point in found]

    def status(self) -> list[dict[str, Any]]:
        """Every group: its phase, epoch, images, and what is wrong with it."""
        served = [_status(shadow) for shadow in self.groups.all()]
        broken = [{"group": str(group), "problem": problem} for group, problem in self.groups.broken.items()]
        return served + broken

    def drop(self, group: GroupId) -> dict[str, Any]:
        """Give up a group's cycle that is receiving.

        Raises:
            CycleUnknown: no such group. GroupBroken. GroupBusy: it is past RECEIVING.
        """
        shadow = self.groups.get(group)
        shadow.drop("an operator dropped it")
        return _status(shadow)

    def verify(self, point: PointId, progress: Progress) -> dict[str, Any]:
        """Read a point whole and check it against the digests it was committed with.

        Raises:
            PointDamaged: which disk, how many blocks. PointUnknown, PointNotVerifiable, GroupBroken.
        """
        found = self._find(point)
        shadow = self.groups.get(found.group)
        keys = self.keyring.lookup(found.plan)
        maps = shadow.maps_of(found)
        try:
            for disk in found.disks:
                root = keys(shadow.state.images[disk.disk].dek_version).digest_root
                with closing(self.groups.target(found.target).open_snapshot(disk.snapshot)) as image:
                    bad = Verifier(image, maps[disk.disk], digest_key(root, disk.disk)).run(progress)
                if len(bad):
                    blocks = -(-int(bad[:, 1].sum()) // disk.block_bytes)
                    raise PointDamaged(point=str(point), disk=str(disk.disk), blocks=blocks, offset=int(bad[0, 0]))
        finally:
            for digest_map in maps.values():
                digest_map.close()
        checked = sum(disk.disk_bytes for disk in found.disks)
        return {"point": str(point), "disks": len(found.disks), "checked_bytes": checked, "damaged_blocks": 0}

    def recover(self, point: PointId, folder: Path, progress: Progress) -> list[dict[str, Any]]:
        """Write a point's disks into a folder; of a broken group too.

        Raises:
            PointUnknown, RecoveryRefused, TargetError: what is whole by then stays, the rest is removed.
        """
        found = self._find(point)
        disks: list[RecoveredDisk] = recover_point(found, self.groups.target(found.target), folder, progress)
        return [disk.model_dump(mode="json") for disk in disks]

    def _find(self, point: PointId) -> Point:
        for catalogue in self.groups.catalogues():
            with suppress(PointUnknown):
                return catalogue.get(point)
        raise PointUnknown(point=str(point))


def _status(shadow: GroupShadow) -> dict[str, Any]:
    state = shadow.state
    cycle = state.cycle
    return {
        "group": str(state.group),
        "plan": str(state.plan),
        "target": state.target,
        "epoch": state.epoch,
        "cycle": str(cycle.id) if cycle else None,
        "phase": cycle.phase if cycle else None,
        "problem": _problem(shadow),
        "points": len(shadow.catalogue.all()),
        "disks": [
            {
                "disk": str(disk),
                **image.model_dump(mode="json", include={"image", "machine", "label", "disk_bytes", "unknown_blocks"}),
            }
            for disk, image in state.images.items()
        ],
    }


def _problem(shadow: GroupShadow) -> str:
    """What is wrong with a group: its cycle, its points."""
    cycle = shadow.state.cycle
    problems = [cycle.problem] if cycle and cycle.problem else []
    return "; ".join([*problems, *map(str, shadow.catalogue.unreadable())])
