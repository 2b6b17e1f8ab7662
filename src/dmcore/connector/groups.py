"""The groups that a connector keeps, each with its shadows, on the targets that its own configuration names."""

import threading
from pathlib import Path
from uuid import UUID

import structlog

from dmcore.connector.errors import GroupBroken
from dmcore.connector.keyring import PlanKeyring
from dmcore.errors import DmcoreError
from dmcore.model.ids import GroupId, PlanId
from dmcore.node.aliases import target_place
from dmcore.node.settings import ConnectorSettings
from dmcore.shadow.errors import CycleUnknown, StateUnreadable
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.places import GroupPlaces
from dmcore.shadow.points import Catalogue
from dmcore.shadow.staging import StagingRoom
from dmcore.shadow.state import STATE_FILE, GroupState, load_state
from dmcore.shadow.storage import Storage
from dmcore.targets.base import Target
from dmcore.targets.registry import open_target

log = structlog.get_logger()


class Groups:
    """Thread-safe. Opens what is on disk when it is made; a group that cannot be opened stops only itself."""

    def __init__(self, settings: ConnectorSettings, keyring: PlanKeyring, storage: Storage) -> None:
        self._settings, self._keyring, self.storage = settings, keyring, storage
        self._folder = settings.state_dir / "groups"
        self._lock = threading.Lock()
        self._targets: dict[str, Target] = {}
        self._groups: dict[GroupId, GroupShadow] = {}
        self._broken: dict[GroupId, str] = {}
        self._stranded: dict[GroupId, Catalogue] = {}
        storage.make_dir(self._folder)
        staging = settings.staging
        self.room = StagingRoom.open(
            storage, settings.staging_dir, staging.reserve_bytes, staging.quota_bytes, staging.wait_s
        )
        """What all groups stage in."""
        for path in sorted(self._folder.glob(f"*/{STATE_FILE}")):
            self._load(path.parent)

    def all(self) -> list[GroupShadow]:
        """Every group that is served."""
        with self._lock:
            return list(self._groups.values())

    @property
    def broken(self) -> dict[GroupId, str]:
        """Groups that could not be opened, and why."""
        return dict(self._broken)

    def catalogues(self) -> list[Catalogue]:
        """The points of every group, also of those that could not be opened: a point needs its target only."""
        with self._lock:
            served = [shadow.catalogue for shadow in self._groups.values()]
            return served + list(self._stranded.values())

    def get(self, group: GroupId) -> GroupShadow:
        """A group, whatever its plan: for the operator.

        Raises:
            GroupBroken: it could not be opened. CycleUnknown: there is none.
        """
        with self._lock:
            self._require_whole(group)
            if group not in self._groups:
                raise CycleUnknown(group=str(group), problem="this connector keeps no such group")
            return self._groups[group]

    def find(self, group: GroupId, plan: PlanId | None) -> GroupShadow | None:
        """A group of this plan, or of any; None if this connector has never begun a cycle of it.

        Raises:
            GroupBroken: it is there and could not be opened. CycleUnknown: it belongs to another plan.
        """
        with self._lock:
            return self._find(group, plan)

    def ensure(self, group: GroupId, plan: PlanId, alias: str) -> GroupShadow:
        """The group, made on this target if it is new.

        Raises:
            AliasUnknown, PathOutsideRoots, TargetError: the target is not there for it.
            GroupBroken, CycleUnknown: as `find`; or its shadows are on another target.
        """
        with self._lock:
            found = self._find(group, plan)
            if found is None:
                state = GroupState(plan=plan, group=group, target=alias)
                found = self._groups[group] = GroupShadow.create(self._kit(group, plan, alias), state)
        if found.state.target != alias:
            raise CycleUnknown(group=str(group), problem=f"its shadows are on target {found.state.target}, not {alias}")
        return found

    def require_target(self, alias: str) -> None:
        """Whether this connector's configuration has such a target, before anything is bound to it.

        Raises:
            AliasUnknown, PathOutsideRoots: it has not, or may not use it.
        """
        target_place(self._settings, alias)

    def target(self, alias: str) -> Target:
        """A target, opened once and kept: its lock keeps other connectors out. Raises as `ensure`."""
        with self._lock:
            return self._target(alias)

    def close(self) -> None:
        """Close every group and target."""
        with self._lock:
            for shadow in self._groups.values():
                shadow.close()
            for target in self._targets.values():
                target.close()
            self._groups, self._targets = {}, {}

    def _find(self, group: GroupId, plan: PlanId | None) -> GroupShadow | None:
        self._require_whole(group)
        found = self._groups.get(group)
        if found is not None and plan is not None and found.state.plan != plan:
            raise CycleUnknown(group=str(group), problem="it belongs to another plan")
        return found

    def _require_whole(self, group: GroupId) -> None:
        if group in self._broken:
            raise GroupBroken(group=str(group), problem=self._broken[group])

    def _load(self, folder: Path) -> None:
        try:
            group = GroupId(UUID(folder.name))
        except ValueError:  # an operator's copy, say: nobody can ask for it
            log.error("not a group", path=str(folder))
            return
        try:
            state = load_state(self.storage, folder)
            if state.group != group:
                raise StateUnreadable(path=str(folder / STATE_FILE), problem=f"the state of group {state.group}")
            self._groups[group] = GroupShadow.load(self._kit(group, state.plan, state.target))
        except (DmcoreError, OSError) as error:
            self._broken[group] = str(error)
            self._stranded[group] = Catalogue(self.storage, self._places(group).points)
            log.error("group not served", group=str(group), problem=str(error))

    def _kit(self, group: GroupId, plan: PlanId, alias: str) -> GroupKit:
        return GroupKit(
            self.storage,
            self._places(group),
            self._target(alias),
            self._keyring.lookup(plan),
            shared_room=self.room,
        )

    def _places(self, group: GroupId) -> GroupPlaces:
        return GroupPlaces(self._folder / str(group), self._settings.staging_dir, group)

    def _target(self, alias: str) -> Target:
        if alias not in self._targets:
            place = target_place(self._settings, alias)
            self._targets[alias] = open_target(place.kind, place.path, self.storage.io)
        return self._targets[alias]
