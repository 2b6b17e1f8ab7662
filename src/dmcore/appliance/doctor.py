"""What is checked at an appliance. It changes nothing: what may be removed is told, and removed by who asks for it."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from dmcore.appliance.agent import make_sweep, open_alias
from dmcore.appliance.leftovers import FoundSnapshot, Sweep
from dmcore.appliance.link import Link
from dmcore.appliance.pairing import load_pairings
from dmcore.errors import DmcoreError
from dmcore.host.clock import Clock, utc_now
from dmcore.host.errors import NodeRunning
from dmcore.host.lock import StateLock
from dmcore.model.enums import SnapshotKind
from dmcore.node import doctor
from dmcore.node.findings import Check, Finding, fail, ok, results, warn
from dmcore.node.identity import KEY_FILE, load_identity
from dmcore.node.settings import ApplianceSettings

ANYWHERE = ("key", "sources")
"""What can be checked before this node is anybody."""


@dataclass
class ApplianceDoctor:
    """One look at one appliance."""

    settings: ApplianceSettings
    clock: Clock = utc_now

    def findings(self) -> list[Finding]:
        """Of all checks."""
        settings = self.settings
        checks: dict[str, Check] = {
            "state": lambda: doctor.check_folder("state", settings.state_dir),
            "permissions": lambda: doctor.check_private(
                {"state": settings.state_dir, "node key": settings.state_dir / KEY_FILE}
            ),
            "key": lambda: doctor.check_key(settings),
            "sources": self._sources,
            "control plane": lambda: doctor.check_control(
                settings, lambda: load_identity(settings.state_dir), self.clock
            ),
            "pairings": self._pairings,
            "leftovers": self._leftovers,
        }
        if not doctor.has_identity(settings):
            checks = {each: checks[each] for each in ANYWHERE}
            checks["state"] = lambda: doctor.check_no_identity(settings)
        return list(results(checks))

    @property
    def is_running(self) -> bool:
        """Whether a process serves this node now. It cleans up by itself."""
        try:
            StateLock(self.settings.state_dir).release()
        except NodeRunning:
            return True
        return False

    def removable(self) -> list[FoundSnapshot]:
        """What may go: nothing while the node runs, as its attempts are known to it alone."""
        if not doctor.has_identity(self.settings) or self.is_running:
            return []
        return [each for each in self._look(self._sweep()) if each.is_leftover]

    def remove(self, leftover: FoundSnapshot) -> bool:
        """Remove one. Raises NodeRunning: the node was started meanwhile."""
        with StateLock(self.settings.state_dir):
            return self._sweep().remove(leftover)

    def _sweep(self) -> Sweep:
        return make_sweep(self.settings, load_identity(self.settings.state_dir))

    def _look(self, sweep: Sweep) -> list[FoundSnapshot]:
        return sweep.look((), self.clock())

    def _sources(self) -> Iterator[Finding]:
        for alias in self.settings.sources:
            what = f"source {alias}"
            try:
                with closing(open_alias(self.settings, alias)) as source:
                    machines = source.machines()
                    live = source.caps.snapshots is SnapshotKind.NONE
            except DmcoreError as error:
                yield fail(what, str(error), "see to its path, and to allowed_roots")
                continue
            unfit = [f"{each.label}: {each.problem}" for each in machines if each.problem]
            if unfit:
                yield warn(what, f"cannot be protected: {'; '.join(unfit)}", "see to these machines, if they should be")
            elif live:
                yield warn(what, f"{len(machines)} machines; no reflinks: disks must be idle", "use XFS or Btrfs")
            else:
                yield ok(what, f"{len(machines)} machines; snapshots are reflinks")

    def _pairings(self) -> Iterator[Finding]:
        pairings = load_pairings(self.settings.state_dir)
        if not pairings:
            yield fail("pairing", "this appliance is paired with no connector", "dmctl appliance pair")
        identity = load_identity(self.settings.state_dir)
        for pairing in pairings:
            what = f"connector {pairing.connector[:8]}"
            yield from doctor.check_certificate(
                what, pairing.certificate_path, self.clock(), "pair again with a token of that connector"
            )
            try:
                with closing(Link.of(pairing, identity).control()):
                    yield ok(what, f"{pairing.address} answers and takes this node")
            except DmcoreError as error:
                yield fail(what, f"{pairing.address}: {error}", "is it up, reachable, and this node paired there?")

    def _leftovers(self) -> Iterator[Finding]:
        running = self.is_running
        found = self._look(self._sweep())
        for each in found:
            what = f"snapshot at {each.source}"
            if each.is_leftover and not running:
                yield warn(what, f"{each.name}: {each.verdict}", "remove it: --repair")
            elif each.is_leftover:
                yield ok(what, f"{each.name}: {each.verdict}, or just begun; the node that runs looks after it")
            else:
                yield ok(what, f"{each.name}: {each.verdict}")
        if not found:
            yield ok("leftovers", "no source snapshots of ours")
