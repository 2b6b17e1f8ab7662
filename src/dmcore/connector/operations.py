"""What an operator at the connector may ask: points, verify, recover, who is paired, bindings, every group's state."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dmcore.connector.bindings import Bindings
from dmcore.connector.groups import Groups
from dmcore.connector.keeper import PointKeeper
from dmcore.connector.leftovers import Leftovers
from dmcore.connector.paired import PairedList
from dmcore.connector.recovery import Progress
from dmcore.model.ids import GroupId, NodeId, PlanId, PointId
from dmcore.shadow.group import GroupShadow


@dataclass(frozen=True)
class Operations:
    """Answers are plain values, ready for JSON."""

    groups: Groups
    keeper: PointKeeper
    bindings: Bindings
    paired_list: PairedList
    make_token: Callable[[str], str]
    cut: Callable[[NodeId, str], int]
    """Ends a node's connections, and says how many those were."""
    roll: Callable[[GroupShadow], None]
    """Goes on with a group that has something to do."""
    found: Leftovers
    """What is beside the groups."""

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

    def rebind(
        self, plan: PlanId, group: GroupId, site: str, machines: Sequence[str], source: str | None = None
    ) -> dict[str, Any]:
        """Bind a plan to another site or source, or a group of it to other machines. Raises as `Bindings.rebind`."""
        return self.bindings.rebind(plan, group, site, machines, source).model_dump(mode="json")

    def points(self) -> list[dict[str, Any]]:
        """Every recovery point with its flags, oldest first."""
        shown = {"state", "verified_at", "preserved", "locked", "expiring"}
        return [
            {**point.model_dump(mode="json"), **flags.model_dump(mode="json", include=shown)}
            for point, flags in self.keeper.all()
        ]

    def status(self) -> list[dict[str, Any]]:
        """Every group: its phase, epoch, images, and what is wrong with it."""
        served = [_status(shadow) for shadow in self.groups.all()]
        broken = [{"group": str(group), "problem": problem} for group, problem in self.groups.broken.items()]
        return served + broken

    def drop(self, group: GroupId, *, lost: bool = False) -> dict[str, Any]:
        """Give up a group's cycle that is receiving; with `lost`, what cannot be read of one that rolls forward, too.

        Raises:
            CycleUnknown: no such group. GroupBroken. GroupBusy: it is past that.
        """
        shadow = self.groups.get(group)
        shadow.drop("an operator dropped it", lost=lost)
        self.roll(shadow)
        return _status(shadow)

    def verify(self, point: PointId, progress: Progress) -> dict[str, Any]:
        """Check a point. Raises as `PointKeeper.verify`."""
        return self.keeper.verify(point, progress)

    def recover(self, point: PointId, folder: Path, progress: Progress) -> list[dict[str, Any]]:
        """Write a point's disks into a folder. Raises as `PointKeeper.recover`."""
        return [disk.model_dump(mode="json") for disk in self.keeper.recover(point, folder, progress)]

    def preserve(self, point: PointId, *, preserved: bool) -> dict[str, Any]:
        """Keep a point whatever its age, or no longer. Raises as `PointKeeper.preserve`."""
        return {"point": str(point), "preserved": self.keeper.preserve(point, preserved=preserved).preserved}

    def leftovers(self, *, remove: bool) -> list[dict[str, Any]]:
        """What is here and of no group; with `remove`, what may go of it is removed, and told so."""
        return [each.told(removed=remove and self.found.remove(each)) for each in self.found.look()]

    def expire(self, point: PointId) -> dict[str, Any]:
        """Remove a point under the same rules as a job. Raises as `PointKeeper.expire`."""
        self.keeper.expire(point)
        return {"point": str(point)}


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
        "points": shadow.catalogue.count(),
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
