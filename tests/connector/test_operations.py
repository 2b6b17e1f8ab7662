"""What operators ask for, against a connector with real points."""

import os
from pathlib import Path
from uuid import UUID, uuid4

from dmcore.connector.operator import (
    DropRequest,
    ExpireRequest,
    PairedRequest,
    PairTokenRequest,
    PointsRequest,
    PreserveRequest,
    RebindRequest,
    RecoverRequest,
    StatusRequest,
    UnpairRequest,
    VerifyRequest,
    ask,
)
from dmcore.errors import ExitCode
from dmcore.lab.layout import SITE_SOURCE
from dmcore.model.ids import GroupId, NodeId, PlanId, PointId
from dmcore.node.pairing_token import PairingToken
from dmcore.shadow.errors import PointDamaged
from dmcore.targets.errors import FlushFailed
from tests.connector.appliance import Appliance, Attempt
from tests.connector.kit import BLOCK, BLOCKS, Disk, refusal
from tests.connector.rig import Rig, newest, refused
from tests.fault_plan import FaultPlan

# What it answers


def test_points_oldest_first(rig: Rig, old_content: bytes) -> None:
    points = ask(rig.socket, PointsRequest())
    assert [point["disks"][0]["rung"] for point in points] == ["seed", "delta"]


def test_status(rig: Rig, appliance: Appliance, old_content: bytes) -> None:
    (group,) = ask(rig.socket, StatusRequest())
    assert (group["group"], group["phase"], group["points"]) == (str(rig.group), "reclaimed", 2)
    assert group["disks"][0]["disk_bytes"] == BLOCKS * BLOCK


def test_a_damaged_point_file_hides_only_itself(rig: Rig, old_content: bytes) -> None:
    first = ask(rig.socket, PointsRequest())[0]["id"]
    (rig.connector.settings.state_dir / "groups" / str(rig.group) / "points" / f"{first}.json").write_bytes(b"rot")
    assert len(ask(rig.socket, PointsRequest())) == 1
    (group,) = ask(rig.socket, StatusRequest())
    assert first in group["problem"]


def test_status_of_a_group_without_a_cycle(rig: Rig) -> None:
    rig.connector.groups.ensure(rig.group, rig.plan, "shadows")
    (group,) = ask(rig.socket, StatusRequest())
    assert (group["cycle"], group["phase"], group["problem"]) == (None, None, "")


def test_token(rig: Rig) -> None:
    token = PairingToken.decode(ask(rig.socket, PairTokenRequest(site="paris"))["token"])
    assert (token.site, token.connector) == ("paris", rig.connector.trust.identity.node)


def test_paired_and_unpair(rig: Rig, appliance: Appliance) -> None:
    (paired,) = ask(rig.socket, PairedRequest())
    assert (paired["node"], paired["site"]) == (appliance.identity.node, SITE_SOURCE)
    appliance.control()
    assert ask(rig.socket, UnpairRequest(node=paired["node"])) == {"node": paired["node"], "connections_cut": 1}
    assert ask(rig.socket, PairedRequest()) == []
    assert refusal(appliance.control).code == "tls.unpaired"
    assert refused(rig, UnpairRequest(node=NodeId("ab" * 32))).code == "tls.unpaired"


def test_rebind(rig: Rig, appliance: Appliance, disk: Disk) -> None:
    appliance.run(disk)
    mail = Disk.make(rig.plan, "d1", "mail")
    assert refusal(lambda: appliance.begin(disk, mail)).code == "plan.binding"
    asked = RebindRequest(plan=rig.plan, group=rig.group, site=SITE_SOURCE, machines=("vm1", "mail"))
    assert sorted(ask(rig.socket, asked)["groups"][str(rig.group)]) == ["mail", "vm1"]
    assert appliance.begin(disk, mail).reply
    unknown = RebindRequest(plan=PlanId(uuid4()), group=rig.group, site=SITE_SOURCE, machines=("vm1",))
    assert refused(rig, unknown).code == "plan.unbound"


def test_drop(rig: Rig, appliance: Appliance, attempt: Attempt, disk: Disk) -> None:
    sender = attempt.open(disk)
    sender.start()
    status = ask(rig.socket, DropRequest(group=rig.group))
    assert (status["phase"], status["problem"]) == ("dropping", "an operator dropped it")
    told = attempt.commit()
    assert (told.phase, told.point, told.problem) == ("dropped", None, "an operator dropped it")
    (group,) = ask(rig.socket, StatusRequest())
    assert (group["phase"], group["disks"]) == ("dropped", [])
    assert appliance.run(disk).reply


def test_drop_of_what_was_not_begun_on(rig: Rig, attempt: Attempt) -> None:
    assert ask(rig.socket, DropRequest(group=rig.group))["phase"] == "dropped"


def test_a_damaged_log_is_given_up(rig: Rig, appliance: Appliance, attempt: Attempt, disk: Disk) -> None:
    """Only when the operator says that it is lost; then the next cycle is a seed."""
    sender = attempt.open(disk)
    sender.start()
    sender.send(sender.sealed(0, 1))
    sender.send(sender.sealed(2, 3))
    folder = rig.connector.settings.staging_dir / str(rig.group) / str(attempt.cycle) / str(disk.id)
    segment = folder / "seg-00000000.log"
    held = bytearray(segment.read_bytes())
    held[300] ^= 1
    segment.write_bytes(held)
    assert ask(rig.socket, DropRequest(group=rig.group))["phase"] == "dropping"
    assert refusal(attempt.commit).code == "log.corrupt"
    assert appliance.state().busy
    ask(rig.socket, DropRequest(group=rig.group, lost=True))
    rig.wait_until_finished()
    (group,) = ask(rig.socket, StatusRequest())
    assert (group["phase"], group["disks"]) == ("dropped", [])
    assert appliance.run(disk).reply


def test_drop_of_no_group(rig: Rig) -> None:
    assert refused(rig, DropRequest(group=GroupId(uuid4()))).code == "cycle.unknown"


# Verify


def test_verify(rig: Rig, old_content: bytes) -> None:
    point = newest(rig)
    checked = ask(rig.socket, VerifyRequest(point=point))
    assert checked == {"point": str(point), "disks": 1, "checked_bytes": BLOCKS * BLOCK, "damaged_blocks": 0}


def test_verify_finds_damage(rig: Rig, disk: Disk, old_content: bytes) -> None:
    point = ask(rig.socket, PointsRequest())[-1]
    snapshot = rig.lab.root / "target" / "snapshots" / f"{point['disks'][0]['snapshot']}.img"
    with snapshot.open("r+b") as file:
        for block in (3, 7):
            file.seek(block * BLOCK + 17)
            flipped = file.read(1)[0] ^ 1
            file.seek(block * BLOCK + 17)
            file.write(bytes([flipped]))
    found = refused(rig, VerifyRequest(point=point["id"]))
    assert (found.code, found.exit_code) == (PointDamaged.code, ExitCode.INTEGRITY)
    named = "; ".join(f"disk {disk.id}: 1 blocks at offset {block * BLOCK}" for block in (3, 7))
    assert f"2 blocks are not what was committed, 2 are marked to be sent again; {named}" in str(found)


def test_verify_of_an_older_point(rig: Rig, old_content: bytes) -> None:
    older = ask(rig.socket, PointsRequest())[0]["id"]
    assert ask(rig.socket, VerifyRequest(point=older))["damaged_blocks"] == 0


def test_verify_of_no_point(rig: Rig) -> None:
    missing = refused(rig, VerifyRequest(point=PointId(uuid4())))
    assert (missing.code, missing.exit_code, missing.permanent) == ("point.unknown", ExitCode.REFUSED, True)


def test_a_group_that_is_being_patched(rig: Rig, faulty: FaultPlan, appliance: Appliance, disk: Disk) -> None:
    """Dirty: its point is there to recover and to check, and the cycle can only go on."""
    appliance.run(disk)
    point = newest(rig)
    faulty.fail("flush", FlushFailed(path="/x", problem="gone"))
    attempt = appliance.begin(disk)
    attempt.send(disk, [1])
    assert refusal(attempt.commit).code == "target.flush"
    assert ask(rig.socket, VerifyRequest(point=point))["damaged_blocks"] == 0
    busy = refused(rig, DropRequest(group=rig.group))
    assert (busy.code, busy.exit_code) == ("cycle.busy", ExitCode.BUSY)
    assert ask(rig.socket, RecoverRequest(point=point, folder=rig.lab.root / "back"))


# Which points stay


def test_preserve_is_shown(rig: Rig, old_content: bytes) -> None:
    first = ask(rig.socket, PointsRequest())[0]
    shown = {"state": "available", "verified_at": None, "preserved": False, "locked": False, "expiring": False}
    assert {key: first[key] for key in shown} == shown
    point = first["id"]
    assert ask(rig.socket, PreserveRequest(point=point)) == {"point": point, "preserved": True}
    assert [each["preserved"] for each in ask(rig.socket, PointsRequest())] == [True, False]
    assert ask(rig.socket, PreserveRequest(point=point, preserved=False)) == {"point": point, "preserved": False}


def test_a_verification_is_shown(rig: Rig, old_content: bytes) -> None:
    ask(rig.socket, VerifyRequest(point=newest(rig)))
    shown = ask(rig.socket, PointsRequest())[-1]
    assert (shown["state"], shown["verified_at"] is not None) == ("available", True)


def test_expire_is_under_the_same_rules(rig: Rig, appliance: Appliance, disk: Disk, old_content: bytes) -> None:
    for block in (6, 7):
        disk.change(block)
        appliance.run(disk, carry=[block])
    rig.wait_until_finished()
    points = [PointId(UUID(each["id"])) for each in ask(rig.socket, PointsRequest())]
    kept = refused(rig, ExpireRequest(point=points[0]))
    assert (kept.code, kept.exit_code) == ("point.kept", ExitCode.REFUSED)
    assert "retention.keep_s" in str(kept)
    (catalogue,) = rig.connector.groups.catalogues()
    for point in points:
        os.utime(catalogue._path(point), (0, 0))
    assert ask(rig.socket, ExpireRequest(point=points[0])) == {"point": str(points[0])}
    assert "retention.keep_newest" in str(refused(rig, ExpireRequest(point=points[1])))
    assert refused(rig, ExpireRequest(point=points[0])).code == "point.unknown"


# Recover


def test_recover_both_points(rig: Rig, disk: Disk, old_content: bytes, tmp_path: Path) -> None:
    for number, expected in enumerate((old_content, bytes(disk.data))):
        point = ask(rig.socket, PointsRequest())[number]["id"]
        (recovered,) = ask(rig.socket, RecoverRequest(point=point, folder=tmp_path / str(number)))
        assert Path(recovered["path"]).read_bytes() == expected
        assert (recovered["machine"], recovered["label"]) == (disk.machine, disk.label)


def test_recover_twice_into_one_folder(rig: Rig, old_content: bytes, tmp_path: Path) -> None:
    request = RecoverRequest(point=newest(rig), folder=tmp_path / "back")
    ask(rig.socket, request)
    again = refused(rig, request)
    assert (again.code, again.exit_code) == ("recover.refused", ExitCode.TARGET)
    assert "nothing is overwritten" in str(again)
