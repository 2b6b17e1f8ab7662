import threading
from pathlib import Path
from uuid import uuid4

import pytest

from dmcore.connector.bindings import MAX_BOUND_MACHINES, Bindings
from dmcore.connector.trust_errors import BindingRefused, BindingUnfit, PlanUnbound
from dmcore.host.errors import FileBroken
from dmcore.host.files import MAX_STATE_BYTES
from dmcore.model.ids import GroupId, PlanId

PLAN = PlanId(uuid4())
WEB, MAIL = GroupId(uuid4()), GroupId(uuid4())


@pytest.fixture
def bindings(tmp_path: Path) -> Bindings:
    bindings = Bindings(tmp_path)
    bindings.require(PLAN, WEB, "paris", ["web", "db"], "shadows")
    return bindings


def test_first_begin_binds_durably(bindings: Bindings, tmp_path: Path) -> None:
    bound = Bindings(tmp_path).load(PLAN)
    assert (bound.site, bound.target) == ("paris", "shadows")
    assert bound.groups == {WEB: {"web", "db"}}


@pytest.mark.parametrize("machines", [["web"], ["db", "web"]])
def test_the_same_again(bindings: Bindings, machines: list[str]) -> None:
    assert bindings.require(PLAN, WEB, "paris", machines, "shadows").groups == {WEB: {"web", "db"}}


@pytest.mark.parametrize(
    ("site", "machines", "target", "message"),
    [
        ("london", ["web"], "shadows", "bound to site paris, but asks for london"),
        ("paris", ["web"], "elsewhere", "bound to target shadows, but asks for elsewhere"),
        ("paris", ["web", "mail"], "shadows", "bound to machines db, web, but asks for mail"),
    ],
)
def test_something_else(bindings: Bindings, site: str, machines: list[str], target: str, message: str) -> None:
    with pytest.raises(BindingRefused, match=message) as refused:
        bindings.require(PLAN, WEB, site, machines, target)
    assert refused.value.code == "plan.binding"
    assert bindings.load(PLAN).groups == {WEB: {"web", "db"}}


def test_each_group_binds_its_own_machines(bindings: Bindings, tmp_path: Path) -> None:
    bindings.require(PLAN, MAIL, "paris", ["mail"], "shadows")
    bound = Bindings(tmp_path).load(PLAN)
    assert bound.groups == {WEB: {"web", "db"}, MAIL: {"mail"}}
    assert bindings.require(PLAN, WEB, "paris", ["web"], "shadows") == bound


def test_a_machine_is_in_one_group(bindings: Bindings) -> None:
    with pytest.raises(BindingRefused, match=f"web in group {WEB}, but asks for web in group {MAIL}"):
        bindings.require(PLAN, MAIL, "paris", ["mail", "web"], "shadows")
    assert set(bindings.load(PLAN).groups) == {WEB}


@pytest.mark.parametrize(("site", "target"), [("london", "shadows"), ("paris", "elsewhere")])
def test_site_and_target_are_the_plans(bindings: Bindings, site: str, target: str) -> None:
    with pytest.raises(BindingRefused):
        bindings.require(PLAN, MAIL, site, ["mail"], target)
    assert set(bindings.load(PLAN).groups) == {WEB}


def test_groups_that_begin_at_once(tmp_path: Path) -> None:
    bindings, groups = Bindings(tmp_path), [GroupId(uuid4()) for _ in range(8)]
    threads = [
        threading.Thread(target=bindings.require, args=(PLAN, group, "paris", [f"vm{number}"], "shadows"))
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
    assert bindings.require(PLAN, WEB, "london", ["web2"], "shadows").site == "london"
    with pytest.raises(BindingRefused):
        bindings.require(PLAN, WEB, "paris", ["web"], "shadows")


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
    ("site", "machines", "target"),
    [("Paris", ["web"], "shadows"), ("paris", [], "shadows"), ("paris", ["../x"], "shadows"), ("paris", ["web"], "/")],
)
def test_no_names_at_all(tmp_path: Path, site: str, machines: list[str], target: str) -> None:
    with pytest.raises(BindingUnfit, match=str(PLAN)) as refused:
        Bindings(tmp_path).require(PLAN, WEB, site, machines, target)
    assert refused.value.code == "plan.unfit"
    assert list((tmp_path / "plans").iterdir()) == []


def test_no_plan_outgrows_its_file(tmp_path: Path) -> None:
    """Otherwise a hostile control plane could make a plan's file unreadable."""
    bindings = Bindings(tmp_path)
    for number in range(MAX_BOUND_MACHINES // 1024):
        machines = [f"{'m' * 120}{number:02d}-{machine:05d}" for machine in range(1024)]
        bindings.require(PLAN, GroupId(uuid4()), "paris", machines, "shadows")
    with pytest.raises(BindingUnfit, match=f"more than {MAX_BOUND_MACHINES} machines"):
        bindings.require(PLAN, GroupId(uuid4()), "paris", ["one-more"], "shadows")
    assert (tmp_path / "plans" / f"{PLAN}.json").stat().st_size < MAX_STATE_BYTES
    assert len(bindings.load(PLAN).groups) == MAX_BOUND_MACHINES // 1024


def test_damaged(bindings: Bindings, tmp_path: Path) -> None:
    (tmp_path / "plans" / f"{PLAN}.json").write_text("{}")
    with pytest.raises(FileBroken, match=str(PLAN)):
        bindings.require(PLAN, WEB, "paris", ["web"], "shadows")
