"""What must hold of a group's files whenever the power may have gone, and at a cycle's end."""

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache

from dmcore.model.ids import DiskId, ImageId, image_of
from dmcore.model.phase import COMMITTED, Phase
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.points import Point
from dmcore.shadow.state import GroupState
from tests.shadow.group_lab import BLOCK, GROUP, cycle_id
from tests.torture.inodes import Dir, File
from tests.torture.medium import Medium
from tests.torture.sender import digests_of
from tests.torture.story import Mask, Story

STATE = "/state/state.json"
MAPS = "/state/maps"
POINTS = "/state/points"
LOGS = f"/staging/{GROUP}"
VOLUMES = "/target/volumes"
SNAPSHOTS = "/target/snapshots"
UNKNOWN = b"\xff" * 16
ZERO = bytes(16)


@dataclass(frozen=True)
class Promised:
    """What had been said to somebody, or written, when the power went."""

    part: int = 1
    """The cycle that was being carried."""
    state: bytes | None = None
    """The state file, as it was last replaced."""
    saving: tuple[bytes, ...] = ()
    """Others, whose replacing had begun and was not said to be done."""
    acked: tuple[tuple[DiskId, Mask], ...] = ()
    sealed: bool = False
    """`commit` was answered."""
    points: frozenset[int] = frozenset()
    """The cycles that were said to be SNAPSHOTTED."""


class Violation(AssertionError):
    """A promise was broken."""


def require(*, holds: bool, what: str) -> None:
    if not holds:
        raise Violation(what)


def durable(medium: Medium, path: str) -> bytes | None:
    node = medium.nodes.get(path)
    return node.durable if isinstance(node, File) else None


def shown(state: bytes | None) -> str:
    """What matters of a state file."""
    if not state or not state.rstrip().endswith(b"}"):
        return repr(state)
    held = GroupState.model_validate_json(state)
    return f"epoch {held.epoch}, {held.cycle and (held.cycle.number, held.cycle.phase.value)}"


def check_state_file(medium: Medium, allowed: set[bytes | None]) -> bytes | None:
    """It is what was last written, or what was being written: it never goes back. Returns what is read."""
    node = medium.nodes.get(STATE)
    seen = bytes(node.content) if isinstance(node, File) else None
    require(
        holds=seen in allowed, what=f"the state file went back, or is torn: {shown(seen)}, not {[*map(shown, allowed)]}"
    )
    return seen


def check_phase(state: GroupState, promised: Promised) -> None:
    """What was answered to `commit` is so."""
    cycle = state.cycle
    same = cycle is not None and cycle.id == cycle_id(promised.part)
    if promised.sealed:
        require(
            holds=same and cycle is not None and cycle.phase in COMMITTED, what="SEALED was answered, and is not so"
        )
    if any(mask for _, mask in promised.acked):
        gone = cycle is None or not same or cycle.phase in {Phase.DROPPED, Phase.DROPPING}
        require(holds=not gone, what="batches were acknowledged, and their cycle is gone")


def check_shadows(medium: Medium, state: GroupState, story: Story) -> None:
    """Each shadow with an image equals it but where the map says unknown; no map is ahead of its shadow."""
    open_cycle = state.open_cycle
    for disk, image in state.images.items():
        content, held = _volume(medium, disk)
        want = story.content(image.image, disk) if image.token is not None else None
        if state.dirty and open_cycle is not None and disk in open_cycle.disks:
            _check_dirty(disk, content, held, want)
        else:
            _check_clean(disk, content, held, want, image.unknown_blocks)


def _volume(medium: Medium, disk: DiskId) -> tuple[bytes, bytes]:
    content, held = durable(medium, f"{VOLUMES}/{disk}"), durable(medium, f"{MAPS}/{disk}.map")
    require(holds=content is not None and held is not None, what=f"{disk} has no volume or no map")
    return content or b"", held or b""


def _check_clean(disk: DiskId, content: bytes, held: bytes, want: bytes | None, unknown: int) -> None:
    digests = digests_of(disk, content)
    if content == want and held == b"".join(digests):
        require(holds=not unknown, what=f"{disk}: the state says {unknown} unknown blocks, the map none")
        return
    found = 0
    for block, digest in enumerate(digests):
        mark = held[block * 16 : block * 16 + 16]
        if mark == UNKNOWN:
            found += 1
            continue
        at = slice(block * BLOCK, (block + 1) * BLOCK)
        require(holds=mark == digest, what=f"{disk}: the map is not what the shadow has at block {block}")
        require(holds=want is None or content[at] == want[at], what=f"{disk}: not its image at block {block}")
    require(holds=found == unknown, what=f"{disk}: {found} unknown blocks, the state says {unknown}")


def _check_dirty(disk: DiskId, content: bytes, held: bytes, before: bytes | None) -> None:
    """While it is patched: what the map says of a block is of the old content, or of what is there now."""
    old = digests_of(disk, before) if before is not None else None
    for block, digest in enumerate(digests_of(disk, content)):
        mark = held[block * 16 : block * 16 + 16]
        good = mark in {UNKNOWN, digest} or (old is None or mark == old[block])
        require(holds=good, what=f"{disk}: the map is ahead of the shadow at block {block}")


def check_new_shadows(medium: Medium, state: GroupState, story: Story) -> None:
    """A disk without an image whose seed is being redone: the map says zeros, or what is there now."""
    cycle = state.open_cycle
    for disk in set(cycle.disks) - set(state.images) if cycle else ():
        if cycle is not None and cycle.phase in {Phase.RECEIVING, Phase.SEALED, Phase.DROPPING}:
            content, held = _volume(medium, disk)
            _check_dirty(disk, content, held, bytes(len(content)))


@lru_cache(maxsize=1000)
def _parsed(data: bytes) -> Point:
    return Point.model_validate_json(data)


def check_points(medium: Medium, story: Story, promised: frozenset[int]) -> set[int]:
    """Each point gives back what the source held at its cycle. Returns the cycles that have one."""
    found = set()
    folder = medium.nodes.get(POINTS)
    for name, node in folder.entries.items() if isinstance(folder, Dir) else ():
        if name.endswith(".json") and isinstance(node, File):
            point = _parsed(node.durable)
            found.add(point.cycle.int - cycle_id(0).int)
            for disk in point.disks:
                held = durable(medium, f"{SNAPSHOTS}/{disk.snapshot}")
                want = story.content(image_of(point.cycle), disk.disk)
                require(holds=held == want, what=f"the point of cycle {point.cycle} is not what the source held")
    require(holds=promised <= found, what=f"points {promised - found} are gone")
    return found


def check_oldest_maps(shadow: GroupShadow, story: Story) -> None:
    """The oldest point can be checked against the digests that it was committed with."""
    points = shadow.catalogue.all()
    for disk, digest_map in shadow.maps_of(points[0]).items() if points else ():
        with closing(digest_map):
            found = digest_map.read(0, digest_map.grid.blocks).tobytes()
        want = story.content(image_of(points[0].cycle), disk)
        good = want is not None and found == b"".join(digests_of(disk, want))
        require(holds=good, what=f"{disk}: the old digests of the oldest point, {points[0].cycle}, are wrong")


def check_end(medium: Medium, shadow: GroupShadow, story: Story, number: int, *, spoiled: bool) -> None:
    """A cycle has ended: its image is there, its point if it has one, and nothing else is left."""
    cycle = shadow.state.cycle
    phases = {Phase.FAILED, Phase.RECLAIMED} if spoiled else {Phase.RECLAIMED}
    phase = cycle.phase if cycle else None
    require(holds=cycle is not None and cycle.id == cycle_id(number), what=f"cycle {number} is not the last one")
    require(holds=phase in phases, what=f"cycle {number} ended {phase}: {cycle and cycle.problem}")
    require(holds=shadow.state.images.keys() >= (cycle.disks.keys() if cycle else set()), what="images are missing")
    for disk in cycle.disks if cycle else ():
        held: ImageId = shadow.state.image_of(disk)
        require(holds=held == image_of(cycle_id(number)), what=f"{disk} has not the image of cycle {number}")
    left = medium.nodes.get(LOGS)
    names = list(left.entries) if isinstance(left, Dir) else []
    require(holds=names == [], what=f"staging holds {names} after the cycle's end")


Check = Callable[[Medium, GroupState, Story], None]
STATE_CHECKS: tuple[Check, ...] = (check_shadows, check_new_shadows)
