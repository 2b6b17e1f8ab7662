"""Source snapshots that nobody needs any more: found by their names, judged by what the connectors say of their cycles.

A snapshot is named after its group and cycle before it is made, so that whatever a crash has left can be told. One goes
when its attempt does not run here and its cycle is SEALED or later, DROPPED, FAILED, or was never begun: that the
connectors say, all that this node is paired with. A snapshot that none of them can be asked about goes by its age.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import structlog

from dmcore.appliance.link import Link
from dmcore.errors import DmcoreError
from dmcore.model.ids import CycleId, GroupId, parse_snapshot_name
from dmcore.model.phase import Phase
from dmcore.sources.base import Source
from dmcore.wire.messages import StateReply, StateRequest

JUST_MADE = timedelta(minutes=10)
"""A snapshot that no connector knows of may be another appliance's, which has yet to begin its cycle."""

OpenSource = Callable[[str], Source]
"""From an alias."""
Ask = Callable[[GroupId], Sequence[StateReply | None]]
"""What each connector holds of a group; None: it did not say."""

log = structlog.get_logger()


class Verdict(StrEnum):
    """What is to become of a source snapshot, and why."""

    OVER = "its cycle is over, or was never begun"
    OLD = "older than limits.snapshot_max_age_s"
    RUNNING = "its attempt runs here"
    NEEDED = "its cycle can be gone on with"
    UNASKED = "not every connector could be asked about it"
    YOUNG = "no connector knows of it yet, and it was just made"


@dataclass(frozen=True)
class FoundSnapshot:
    """A snapshot of ours, where it is, and what is to become of it."""

    source: str
    name: str
    group: GroupId
    verdict: Verdict

    @property
    def is_leftover(self) -> bool:
        """Whether it may go."""
        return self.verdict in {Verdict.OVER, Verdict.OLD}


class Sweep:
    """Looks through all sources of one node. Belongs to one thread."""

    def __init__(self, aliases: Iterable[str], open_source: OpenSource, ask: Ask, max_age_s: float) -> None:
        """Nothing is opened yet."""
        self._aliases, self._open, self._ask = tuple(aliases), open_source, ask
        self._max_age = timedelta(seconds=max_age_s)
        self._first_seen: dict[str, datetime] = {}
        self.problems: dict[str, str] = {}
        """By alias: why the last look could not see it."""

    def look(self, busy: Collection[GroupId], now: datetime, known: Collection[str] = ()) -> list[FoundSnapshot]:
        """Every snapshot of ours. `known`: names of those that this node has made itself, and knows not to be used."""
        self.problems = {}
        found: list[FoundSnapshot] = []
        for alias in self._aliases:
            with self._noted(alias), closing(self._open(alias)) as source:
                found += self._look_at(alias, source, busy, now, known)
        names = {each.name for each in found}
        self._first_seen = {name: when for name, when in self._first_seen.items() if name in names}
        return found

    def remove(self, leftover: FoundSnapshot) -> bool:
        """Delete it, and see that it is gone. What is wrong is logged: the next sweep tries again."""
        ids = {"source": leftover.source, "snapshot": leftover.name, "why": leftover.verdict}
        with self._noted(leftover.source), closing(self._open(leftover.source)) as source:
            source.delete_snapshot(leftover.name)
            if leftover.name not in source.snapshots():
                log.info("leftover source snapshot is removed", **ids)
                return True
        log.error("leftover source snapshot stays", **ids)
        return False

    def _look_at(
        self, alias: str, source: Source, busy: Collection[GroupId], now: datetime, known: Collection[str]
    ) -> Iterator[FoundSnapshot]:
        for name in source.snapshots():
            if (ours := parse_snapshot_name(name)) is None:
                continue
            group, cycle = ours
            verdict = Verdict.RUNNING
            if group not in busy:
                age = now - (_taken_at(source, name) or self._first_seen.setdefault(name, now))
                verdict = self._judge(group, cycle, age, made_here=name in known)
            yield FoundSnapshot(alias, name, group, verdict)

    def _judge(self, group: GroupId, cycle: CycleId, age: timedelta, *, made_here: bool) -> Verdict:
        if age >= self._max_age:
            return Verdict.OLD
        return judged(cycle, self._ask(group), just_made=age < JUST_MADE and not made_here)

    @contextmanager
    def _noted(self, alias: str) -> Iterator[None]:
        try:
            yield
        except DmcoreError as error:
            self.problems[alias] = str(error)
            log.warning("source not cleaned up", source=alias, code=error.code, problem=str(error))


def judged(cycle: CycleId, replies: Sequence[StateReply | None], *, just_made: bool) -> Verdict:
    """What the connectors' word means for a snapshot."""
    said = [reply for reply in replies if reply is not None]
    held = [reply.cycle for reply in said if reply.cycle is not None and reply.cycle.cycle == cycle]
    if any(each.phase is Phase.RECEIVING for each in held):
        return Verdict.NEEDED
    if not said or len(said) < len(replies):
        return Verdict.UNASKED
    over = bool(held) or any(reply.finished is not None and reply.finished.cycle == cycle for reply in said)
    return Verdict.YOUNG if just_made and not over else Verdict.OVER


def ask_all(links: Callable[[], Mapping[str, Link]]) -> Ask:
    """Asks every connector of these, each over a connection of its own."""

    def ask(group: GroupId) -> list[StateReply | None]:
        try:
            known = links()
        except DmcoreError as error:
            log.warning("pairings cannot be read", code=error.code, problem=str(error))
            return [None]
        return [_ask(connector, link, group) for connector, link in known.items()]

    return ask


def _ask(connector: str, link: Link, group: GroupId) -> StateReply | None:
    try:
        with closing(link.control()) as channel:
            return channel.state(StateRequest(group=group, plan=None))
    except DmcoreError as error:
        log.warning("connector not asked", connector=connector, group=str(group), code=error.code, problem=str(error))
        return None


def _taken_at(source: Source, name: str) -> datetime | None:
    """None: it is half made, half removed or damaged."""
    try:
        snapshot = source.find_snapshot(name)
    except DmcoreError:
        return None
    if snapshot is None:
        return None
    with closing(snapshot):
        return snapshot.taken_at
