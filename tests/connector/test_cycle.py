"""A cycle as its connector sees it: every message of a good one, and every one that comes too early or from another."""

from tests.connector.appliance import Appliance
from tests.connector.kit import Disk
from tests.connector.rig import Rig


def test_seed_then_delta_each_give_their_image(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    seed = appliance.run(disk)
    before = bytes(disk.data)
    disk.change(3)
    delta = appliance.run(disk, carry=[3])
    assert rig.image_of(disk, seed.cycle) == before
    assert rig.image_of(disk, delta.cycle) == bytes(disk.data)
