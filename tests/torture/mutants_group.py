"""Sealing, the state file, redo, snapshots and clean-up with one rule broken."""

from pathlib import Path
from typing import Any

from dmcore.model.phase import Phase
from dmcore.shadow import forward, group, sealing, state
from dmcore.shadow.digestmap import DigestMap
from dmcore.shadow.group import GroupShadow
from dmcore.shadow.kit import GroupKit
from dmcore.shadow.points import Catalogue
from dmcore.shadow.redo import Redo
from dmcore.shadow.state import Cycle, GroupState
from dmcore.shadow.storage import Storage
from tests.torture.medium_target import MediumVolume
from tests.torture.mutants import (
    Patch,
    mutant,
    nothing,
    with_rounds,
    with_spoiled,
)

# Sealing


@mutant()
def sealed_is_answered_before_it_is_durable() -> list[Patch]:
    real = state.save_state

    def save(storage: Storage, folder: Path, saved: GroupState) -> None:
        if saved.cycle is not None and saved.cycle.phase is Phase.SEALED:
            fd = storage._open(folder / "state.json.new", 0o1101)
            storage.io.append(fd, b"", saved.model_dump_json().encode(), 0)
            storage.close(fd)
            storage._move(folder / "state.json.new", folder / "state.json")
        else:
            real(storage, folder, saved)

    return [(group, "save_state", save)]


@mutant()
def redone_before_it_is_sealed() -> list[Patch]:
    real = sealing.seal_disk

    def seal(kit: GroupKit, held: GroupState, disk: Any, plan: Any, *rest: Any) -> Any:
        sealed = real(kit, held, disk, plan, *rest)
        assert held.cycle is not None
        cycle = held.cycle.model_copy(update={"disks": {**held.cycle.disks, disk: sealed}})
        if sealed.log_bytes:
            forward._redo_sealed(kit, held, cycle, disk, nothing)
        return sealed

    return [(group, "seal_disk", seal)]


# The state file


@mutant()
def the_state_file_is_not_synced() -> list[Patch]:
    def replace(self: Storage, path: Path, data: bytes) -> None:
        fd = self._open(path.with_name(path.name + ".new"), 0o1101)
        self.io.append(fd, b"", data, 0)
        self.close(fd)
        self.rename(path.with_name(path.name + ".new"), path)

    return [(Storage, "replace", replace)]


@mutant()
def the_state_files_directory_is_not_synced() -> list[Patch]:
    return [(Storage, "rename", lambda self, old, new: self._move(old, new))]


@mutant()
def the_state_file_is_written_in_place() -> list[Patch]:
    def replace(self: Storage, path: Path, data: bytes) -> None:
        fd = self._open(path, 0o1101)
        self.io.append(fd, b"", data, 0)
        self.io.sync(fd)
        self.close(fd)
        self.sync_dir(path.parent)

    return [(Storage, "replace", replace)]


# Redo


@mutant()
def the_map_is_written_before_the_shadow_is_flushed() -> list[Patch]:
    real = Redo._settle

    def settle(self: Redo) -> None:
        volume, self._volume = self._volume, Unflushed()  # type: ignore[assignment]
        real(self)
        self._volume = volume
        volume.flush()

    return [(Redo, "_settle", settle)]


class Unflushed:
    """A volume whose flush is put off."""

    def flush(self) -> None:
        pass


@mutant()
def the_shadow_is_never_flushed() -> list[Patch]:
    return [(MediumVolume, "flush", nothing)]


@mutant(with_rounds)
def the_map_is_not_flushed_before_the_checkpoint() -> list[Patch]:
    """It is at the end."""
    real = Redo._walk

    def walk(self: Redo, *args: Any, **kwargs: Any) -> int:
        held = self._map
        self._map = Unmapped(held)  # type: ignore[assignment]
        done = real(self, *args, **kwargs)
        self._map = held
        held.flush()
        return done

    return [(Redo, "_walk", walk)]


class Unmapped:
    """A map whose flush is put off."""

    def __init__(self, held: DigestMap) -> None:
        self.write, self.grid = held.write, held.grid

    def flush(self) -> None:
        pass


@mutant()
def old_digests_are_kept_after_the_map_is_written() -> list[Patch]:
    real = Redo._settle

    def settle(self: Redo) -> None:
        keep, waiting, self._keep_old = self._keep_old, self._waiting, None
        real(self)
        self._keep_old = keep
        if keep is not None and waiting:
            keep(waiting)

    return [(Redo, "_settle", settle)]


@mutant()
def the_map_is_never_flushed() -> list[Patch]:
    return [(DigestMap, "flush", nothing)]


@mutant()
def applied_is_said_before_the_redo() -> list[Patch]:
    real = forward.apply

    def apply(kit: GroupKit, held: GroupState, cycle: Cycle, *rest: Any) -> GroupState:
        images = {disk: forward.image_after(cycle, disk, plan.next_token, 0) for disk, plan in cycle.disks.items()}
        early = held.at(Phase.APPLIED).with_images({**held.images, **images})
        state.save_state(kit.storage, kit.places.folder, early)
        return real(kit, held, cycle, *rest)

    return [(forward, "apply", apply)]


@mutant(with_spoiled)
def unknown_blocks_are_not_marked() -> list[Patch]:
    return [(DigestMap, "set_unknown", nothing)]


# Snapshots, points, clean-up


@mutant()
def the_snapshot_is_made_before_the_redo() -> list[Patch]:
    real = forward.apply

    def apply(kit: GroupKit, held: GroupState, cycle: Cycle, *rest: Any) -> GroupState:
        for disk in cycle.disks:
            kit.target.snapshot(kit.places.volume(disk), str(cycle.id))
        return real(kit, held, cycle, *rest)

    return [(forward, "apply", apply)]


@mutant()
def the_point_is_written_after_snapshotted() -> list[Patch]:
    real = forward.publish

    def publish(held: GroupState, cycle: Cycle, catalogue: Catalogue, *rest: Any) -> GroupState:
        for point in LATE:
            Catalogue.add_now(catalogue, point)  # type: ignore[attr-defined]
        LATE.clear()
        return real(held, cycle, catalogue, *rest)

    return [
        (Catalogue, "add_now", Catalogue.add),
        (Catalogue, "add", lambda self, point: LATE.append(point)),
        (forward, "publish", publish),
    ]


LATE: list[Any] = []


@mutant()
def staging_is_removed_before_applied_is_saved() -> list[Patch]:
    real = forward.apply

    def apply(kit: GroupKit, held: GroupState, cycle: Cycle, *rest: Any) -> GroupState:
        after = real(kit, held, cycle, *rest)
        kit.storage.remove_tree(kit.places.cycle(cycle.id))
        return after

    return [(forward, "apply", apply)]


@mutant()
def the_staging_of_a_dropped_cycle_is_forgotten() -> list[Patch]:
    return [(GroupShadow, "_remove_staging_of_finished", nothing)]
