import threading
from pathlib import Path
from uuid import uuid4

import pytest

from dmcore.connector.bindings import MAX_BOUND_MACHINES, Bindings, Where
from dmcore.connector.trust_errors import BindingRefused, BindingUnfit, PlanUnbound
from dmcore.host.errors import FileBroken
from dmcore.host.files import MAX_STATE_BYTES
from dmcore.model.ids import GroupId, PlanId

PLAN = PlanId(uuid4())
AT = ("paris", "machines", "shadows")
WEB, MAIL = GroupId(uuid4()), GroupId(uuid4())


@pytest.fixture
def bindings(tmp_path: Path) -> Bindings:
    bindings = Bindings(tmp_path)
    bindings.require(PLAN, WEB, AT, ["web", "db"])
    return bindings


def test_first_begin_binds_durably(bindings: Bindings, tmp_path: Path) -> None:
    bound = Bindings(tmp_path).load(PLAN)
    assert (bound.site, bound.source, bound.target) == AT
    assert bound.groups == {WEB: {"web", "db"}}


@pytest.mark.parametrize("machines", [["web"], ["db", "web"]])
def test_the_same_again(bindings: Bindings, machines: list[str]) -> None:
    assert bindings.require(PLAN, WEB, AT, machines).groups == {WEB: {"web", "db"}}


@pytest.mark.parametrize(
    ("at", "machines", "message"),
    [
        (("london", *AT[1:]), ["web"], "bound to site paris, but asks for london"),
        (("paris", "others", "shadows"), ["web"], "bound to source machines, but asks for others"),
        ((*AT[:2], "elsewhere"), ["web"], "bound to target shadows, but asks for elsewhere"),
        (AT, ["web", "mail"], "bound to machines db, web, but asks for mail"),
    ],
)
def test_something_else(bindings: Bindings, at: Where, machines: list[str], message: str) -> None:
    with pytest.raises(BindingRefused, match=message) as refused:
        bindings.require(PLAN, WEB, at, machines)
    assert refused.value.code == "plan.binding"
    assert bindings.load(PLAN).groups == {WEB: {"web", "db"}}


def test_each_group_binds_its_own_machines(bindings: Bindings, tmp_path: Path) -> None:
    bindings.require(PLAN, MAIL, AT, ["mail"])
    bound = Bindings(tmp_path).load(PLAN)
    assert bound.groups == {WEB: {"web", "db"}, MAIL: {"mail"}}
    assert bindings.require(PLAN, WEB, AT, ["web"]) == bound


def test_a_machine_is_in_one_group(bindings: Bindings) -> None:
    with pytest.raises(BindingRefused, match=f"web in group {WEB}, but asks for web in group {MAIL}"):
        bindings.require(PLAN, MAIL, AT, ["mail", "web"])
    assert set(bindings.load(PLAN).groups) == {WEB}


@pytest.mark.parametrize("at", [("london", *AT[1:]), ("paris", "others", "shadows"), (*AT[:2], "elsewhere")])
def test_site_source_and_target_are_the_plans(bindings: Bindings, at: Where) -> None:
    with pytest.raises(BindingRefused):
        bindings.require(PLAN, MAIL, at, ["mail"])
    assert set(bindings.load(PLAN).groups) == {WEB}


def test_groups_that_begin_at_once(tmp_path: Path) -> None:
    bindings, groups = Bindings(tmp_path), [GroupId(uuid4()) for _ in range(8)]
    threads = [
        threading.Thread(target=bindings.require, args=(PLAN, group, AT, [f"vm{number}"]))
        for number, group in enumerate(groups)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(bindings.load(PLAN).groups) == set(groups)


def test_only_its_own_site_may_ask(bindings: Bindings) -> None:
    bindings.require_site(PLAN, "paris")
    with pytest.raises(BindingRefused, match="bound to site paris"):
        bindings.require_site(PLAN, "london")
    with pytest.raises(PlanUnbound):
        bindings.require_site(PlanId(uuid4()), "paris")


def test_operator_binds_anew(bindings: Bindings) -> None:
    bindings.rebind(PLAN, WEB, "london", ["web2"])
    assert bindings.require(PLAN, WEB, ("london", *AT[1:]), ["web2"]).site == "london"
    with pytest.raises(BindingRefused):
        bindings.require(PLAN, WEB, AT, ["web"])


def test_operator_names_another_source(bindings: Bindings) -> None:
    """The appliance's settings call it otherwise from now on."""
    assert bindings.rebind(PLAN, WEB, "paris", ["web"], "renamed").source == "renamed"
    assert bindings.require(PLAN, WEB, ("paris", "renamed", "shadows"), ["web"]).target == "shadows"
    assert bindings.rebind(PLAN, WEB, "paris", ["web"]).source == "renamed"
    with pytest.raises(BindingRefused):
        bindings.require(PLAN, WEB, AT, ["web"])


def test_operator_moves_a_machine(bindings: Bindings) -> None:
    with pytest.raises(BindingRefused, match=f"db in group {WEB}"):
        bindings.rebind(PLAN, MAIL, "paris", ["db"])
    bindings.rebind(PLAN, WEB, "paris", ["web"])
    assert bindings.rebind(PLAN, MAIL, "paris", ["db"]).groups == {WEB: {"web"}, MAIL: {"db"}}


def test_nothing_to_bind_anew(bindings: Bindings) -> None:
    with pytest.raises(PlanUnbound):
        bindings.rebind(PlanId(uuid4()), WEB, "paris", ["web"])
    with pytest.raises(PlanUnbound):
        bindings.load(PlanId(uuid4()))


@pytest.mark.parametrize(
    ("at", "machines"),
    [
        (("Paris", *AT[1:]), ["web"]),
        (AT, []),
        (AT, ["../x"]),
        (("paris", "../x", "shadows"), ["web"]),
        ((*AT[:2], "/"), ["web"]),
    ],
)
def test_no_names_at_all(tmp_path: Path, at: Where, machines: list[str]) -> None:
    with pytest.raises(BindingUnfit, match=str(PLAN)) as refused:
        Bindings(tmp_path).require(PLAN, WEB, at, machines)
    assert refused.value.code == "plan.unfit"
    assert list((tmp_path / "plans").iterdir()) == []


def test_no_plan_outgrows_its_file(tmp_path: Path) -> None:
    """Otherwise a hostile control plane could make a plan's file unreadable."""
    bindings = Bindings(tmp_path)
    for number in range(MAX_BOUND_MACHINES // 1024):
        machines = [f"{'m' * 120}{number:02d}-{machine:05d}" for machine in range(1024)]
        bindings.require(PLAN, GroupId(uuid4()), AT, machines)
    with pytest.raises(BindingUnfit, match=f"more than {MAX_BOUND_MACHINES} machines"):
        bindings.require(PLAN, GroupId(uuid4()), AT, ["one-more"])
    assert (tmp_path / "plans" / f"{PLAN}.json").stat().st_size < MAX_STATE_BYTES
    assert len(bindings.load(PLAN).groups) == MAX_BOUND_MACHINES // 1024


def test_damaged(bindings: Bindings, tmp_path: Path) -> None:
    (tmp_path / "plans" / f"{PLAN}.json").write_text("{}")
    with pytest.raises(FileBroken, match=str(PLAN)):
        bindings.require(PLAN, WEB, AT, ["web"])
