"""What is checked at a connector: asked of the one that runs, else looked at as its next start would."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from dmcore.blocks import files
from dmcore.connector.daemon import SOCKET_FILE
from dmcore.connector.errors import ConnectorNotRunning
from dmcore.connector.groups import Groups
from dmcore.connector.keyring import PlanKeyring
from dmcore.connector.leftovers import Leftovers
from dmcore.connector.operator import LeftoversRequest, PointsRequest, StatusRequest, ask
from dmcore.errors import DmcoreError
from dmcore.host.clock import Clock, utc_now
from dmcore.host.lock import StateLock
from dmcore.keys.local import LocalKek
from dmcore.model.phase import FINISHED, Phase
from dmcore.node import doctor
from dmcore.node.aliases import recovery_folder, target_place
from dmcore.node.findings import Check, Finding, fail, ok, results, warn
from dmcore.node.identity import KEY_FILE, load_identity
from dmcore.node.settings import ConnectorSettings
from dmcore.shadow.storage import Storage

ANYWHERE = ("key", "staging", "targets", "recoveries")
"""What can be checked before this node is anybody."""


@dataclass
class ConnectorDoctor:
    """One look at one connector."""

    settings: ConnectorSettings
    clock: Clock = utc_now

    def findings(self) -> list[Finding]:
        """Of all checks."""
        settings, state = self.settings, self.settings.state_dir
        checks: dict[str, Check] = {
            "state": lambda: doctor.check_folder("state", state),
            "permissions": lambda: doctor.check_private(
                {"state": state, "node key": state / KEY_FILE, "authority's key": state / "ca" / "ca.key"}
            ),
            "key": lambda: doctor.check_key(settings),
            "staging": self._staging,
            "targets": self._targets,
            "recoveries": self._recoveries,
            "certificate": self._certificates,
            "control plane": lambda: doctor.check_control(settings, lambda: load_identity(state), self.clock),
            "groups": self._groups,
            "points": self._points,
            "leftovers": self._leftovers,
        }
        if not doctor.has_identity(settings):
            checks = {each: checks[each] for each in ANYWHERE}
            checks["state"] = lambda: doctor.check_no_identity(settings)
        return list(results(checks))

    def removable(self) -> list[dict[str, Any]]:
        """What may go."""
        return (
            [] if not doctor.has_identity(self.settings) else [each for each in self.leftovers() if each["removable"]]
        )

    def leftovers(self, *, remove: bool = False) -> list[dict[str, Any]]:
        """What is beside the groups; with `remove`, what may go of it is removed.

        Raises:
            NodeRunning: it starts or stops just now. DmcoreError: its keys or state cannot be used.
        """
        try:
            found: list[dict[str, Any]] = ask(self._socket, LeftoversRequest(remove=remove))
        except ConnectorNotRunning:
            with ExitStack() as opened:
                beside = self._opened(opened)
                found = [each.told(removed=remove and beside.remove(each)) for each in beside.look()]
        return found

    @property
    def _socket(self) -> Any:
        return self.settings.state_dir / SOCKET_FILE

    def _opened(self, opened: ExitStack) -> Leftovers:
        settings, storage = self.settings, Storage()
        opened.enter_context(StateLock(settings.state_dir))
        keyring = PlanKeyring(settings.state_dir / "keys", LocalKek(settings.kek.file, settings.kek.fingerprint))
        groups = Groups(settings, keyring, storage)
        opened.callback(groups.close)
        return Leftovers(groups, settings, storage)

    def _staging(self) -> Iterator[Finding]:
        folder = self.settings.staging_dir
        if folder.exists():  # made when the first block comes
            yield from doctor.check_folder("staging", folder, self.settings.staging.reserve_bytes)

    def _targets(self) -> Iterator[Finding]:
        for alias in self.settings.targets:
            what = f"target {alias}"
            try:
                path = target_place(self.settings, alias).path
            except DmcoreError as error:
                yield fail(what, str(error), "see to its path, and to allowed_roots")
                continue
            yield from doctor.check_folder(what, path)
            if path.is_dir() and not files.can_reflink(path):
                yield warn(what, f"{path} makes no reflinks: every snapshot is a copy", "use XFS or Btrfs")

    def _recoveries(self) -> Iterator[Finding]:
        for alias in self.settings.recoveries:
            yield from doctor.check_folder(f"recovery folder {alias}", recovery_folder(self.settings, alias))

    def _certificates(self) -> Iterator[Finding]:
        folder = self.settings.state_dir / "ca"
        for what, name in (("authority", "ca.pem"), ("certificate", "server.pem")):
            yield from doctor.check_certificate(what, folder / name, self.clock(), "restart the connector")

    def _groups(self) -> Iterator[Finding]:
        try:
            groups: list[dict[str, Any]] = ask(self._socket, StatusRequest())
        except ConnectorNotRunning:
            yield warn("connector", "it does not run", "dmctl connector serve; groups and points are looked at then")
            return
        yield ok("connector", f"it runs, with {len(groups)} groups")
        for group in groups:
            yield from _of_group(group)

    def _points(self) -> Iterator[Finding]:
        try:
            points: list[dict[str, Any]] = ask(self._socket, PointsRequest())
        except ConnectorNotRunning:
            return
        verified = {point["group"] for point in points if point["verified_at"]}
        never = sorted({point["group"] for point in points} - verified)
        if never:
            yield warn("points", f"never verified: groups {', '.join(never)}", "dmctl connector verify latest")
        damaged = [point["id"] for point in points if point["state"] != "available"]
        if damaged:
            yield warn(
                "points", f"damaged: {', '.join(damaged)}", "verify older ones; see 'A verification found damage'"
            )
        if not never and not damaged:
            yield ok("points", f"{len(points)} points; each group has a verified one")

    def _leftovers(self) -> Iterator[Finding]:
        found = self.leftovers()
        for each in found:
            advice = "remove it: --repair" if each["removable"] else "remove it by hand, if nobody needs it"
            yield warn(f"leftover at {each['where']}", f"{each['kind']}: {each['name']}", advice)
        if not found:
            yield ok("leftovers", "nothing is here that is of no group")


def _of_group(group: dict[str, Any]) -> Iterator[Finding]:
    what = f"group {group['group'][:8]}"
    if "disks" not in group:
        yield fail(what, f"it is not served: {group['problem']}", "see 'When' in docs/operations.md")
    elif group["problem"]:
        yield warn(what, group["problem"], "see the connector's log")
    elif group["phase"] and Phase(group["phase"]) not in FINISHED | {Phase.RECEIVING}:
        yield warn(what, f"its cycle is {group['phase']}", "if it stays so, the connector's log says why")
