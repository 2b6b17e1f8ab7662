"""Enrolment, sites and plans on both databases: what races, and what is bounded."""

import base64
import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import insert, select

from dmcore.api.join import JoinToken
from dmcore.api.nodes import EnrollRequest, PollRequest
from dmcore.api.operators import JoinSpec
from dmcore.api.plans import PlanEdit, PlanSpec, SiteEdit, SiteSpec
from dmcore.control.access import enrolment
from dmcore.control.access.enrolment import MAX_SUPERSEDED, Invitation
from dmcore.control.errors import JoinRefused, MachineProtected, NameTaken, NodeRevoked, NotFound
from dmcore.control.plans import plans, sites
from dmcore.control.queue import queue
from dmcore.control.store.database import Database
from dmcore.control.store.tables import machines, nodes
from dmcore.errors import DmcoreError
from dmcore.model.enums import Role
from dmcore.model.jobs import JobKind
from dmcore.model.names import node_id_of
from tests.control.queue_kit import CONNECTOR, NOW, SITE, World, after
from tests.control.web_kit import CONTROL

ABOUT = Invitation(("https://control:8443",), CONTROL, None, "e" * 64)
ACTOR = "test"


@pytest.fixture
def world(database: Database) -> World:
    made = World(database)
    made.site()
    return made


def join(database: Database, role: Role = Role.APPLIANCE) -> str:
    with database.write() as connection:
        made = enrolment.create_join(connection, NOW, JoinSpec(site=SITE, role=role), ABOUT, ACTOR)
    return JoinToken.decode(made.token).secret


def enroll(database: Database, secret: str, key: bytes, role: Role = Role.APPLIANCE) -> str:
    request = EnrollRequest(
        secret=secret, public_key=base64.b64encode(key).decode(), site=SITE, role=role, version="1"
    )  # fmt: skip
    with database.write() as connection:
        return enrolment.enroll(connection, NOW, request, enrolment.public_key_of(request))


def race(*calls: Callable[[], Any]) -> list[DmcoreError | None]:
    """All at once; what each came to."""
    ends: list[DmcoreError | None] = [None] * len(calls)
    barrier = threading.Barrier(len(calls))

    def run(number: int) -> None:
        barrier.wait()
        try:
            calls[number]()
        except DmcoreError as error:
            ends[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return ends


def test_exactly_one_of_those_that_race_for_a_token_wins(world: World) -> None:
    secret = join(world.database)
    calls = [lambda key=bytes([n]) * 91: enroll(world.database, secret, key) for n in range(4)]
    ends = race(*calls)
    assert sorted(type(end).__name__ for end in ends) == ["JoinRefused"] * 3 + ["NoneType"]
    assert world.count(nodes) == 1


def test_one_key_with_two_tokens_at_once_is_one_node(world: World) -> None:
    secrets, key = [join(world.database) for _ in range(4)], b"k" * 91
    assert race(*(lambda one=one: enroll(world.database, one, key) for one in secrets)) == [None] * 4
    assert world.count(nodes) == 1


def test_an_unknown_secret_is_refused(world: World) -> None:
    with pytest.raises(JoinRefused):
        enroll(world.database, "x" * 43, b"k" * 91)


def poll(world: World, node: str, **more: Any) -> object:
    request = PollRequest(**({"incarnation": uuid4(), "version": "1"} | more))
    with world.database.write() as connection:
        return enrolment.seen(connection, NOW, node, request)


def test_only_so_many_earlier_processes_are_remembered(world: World) -> None:
    node = enroll(world.database, join(world.database), b"k" * 91)
    first = uuid4()
    poll(world, node, incarnation=first)
    for _ in range(3):
        assert poll(world, node) is not None
        assert poll(world, node, incarnation=first) is None
    for _ in range(MAX_SUPERSEDED):
        assert poll(world, node) is not None
    with world.database.read() as connection:
        row = connection.execute(select(nodes)).one()
    assert len(row.superseded) == MAX_SUPERSEDED
    assert world.events() == ["node.cloned"]


def test_a_poll_after_the_revocation_is_refused(world: World) -> None:
    node = enroll(world.database, join(world.database), b"k" * 91)
    with world.database.write() as connection:
        enrolment.revoke(connection, NOW, node, ACTOR)
    with pytest.raises(NodeRevoked):
        poll(world, node)


def test_what_only_a_revoked_connector_could_do_is_cancelled(world: World) -> None:
    """Held or waiting. Cycles go on, and so does the work of others."""
    appliance, connector, other = world.appliance(), world.node(CONNECTOR, Role.CONNECTOR), "d" * 64
    world.node(other, Role.CONNECTOR)
    (group,) = world.plan()
    world.enqueue(group)
    appliance.cycle()
    for owner in (CONNECTOR, CONNECTOR, other):
        with world.database.write() as connection:
            queue.enqueue_work(connection, NOW, owner, JobKind.VERIFY)
    connector.work()
    for _ in range(2):
        with world.database.write() as connection:
            enrolment.revoke(connection, NOW, CONNECTOR, ACTOR)
    assert world.states() == ["cancelled", "cancelled", "leased", "queued"]


def test_a_quiet_poll_writes_nothing(world: World) -> None:
    node = enroll(world.database, join(world.database), b"k" * 91)
    incarnation = uuid4()
    poll(world, node, incarnation=incarnation)
    request = PollRequest(incarnation=incarnation, version="1")
    for seconds, expected in ((9.0, NOW), (10.0, after(10))):
        with world.database.write() as connection:
            enrolment.seen(connection, after(seconds), node, request)
        with world.database.read() as connection:
            assert connection.execute(select(nodes.c.seen_at)).scalar_one() == expected


def test_a_site_has_one_name(world: World) -> None:
    def create() -> None:
        with world.database.write() as connection:
            sites.create(connection, NOW, SiteSpec(name="rome"), ACTOR)

    ends = race(create, create, create)
    assert sorted(type(end).__name__ for end in ends) == ["NameTaken", "NameTaken", "NoneType"]
    with pytest.raises(NotFound), world.database.write() as connection:
        sites.edit(connection, NOW, "oslo", SiteEdit.model_validate({"limit": {}}), ACTOR)


@pytest.fixture
def protectable(world: World) -> World:
    """A site with a source and a target."""
    for key, role, told in (("a", Role.APPLIANCE, {"sources": ["vms"]}), ("c", Role.CONNECTOR, {"targets": ["aws"]})):
        with world.database.write() as connection:
            row = {"id": node_id_of(key.encode()), "site": SITE, "role": role, "public_key": b"", "version": "1"}
            connection.execute(insert(nodes).values(**row, **told, enrolled_at=NOW))
    return world


def make_plan(world: World, name: str, *labels: str) -> Any:
    spec = PlanSpec(name=name, source="vms", target="aws", machines=labels, rpo_s=300)
    with world.database.write() as connection:
        return plans.create(connection, NOW, spec, ACTOR)


def test_of_plans_that_race_for_a_machine_one_gets_it(protectable: World) -> None:
    ends = race(*(lambda n=n: make_plan(protectable, f"plan {n}", f"own {n}", "shared") for n in range(4)))
    assert sorted(type(end).__name__ for end in ends) == ["MachineProtected"] * 3 + ["NoneType"]
    assert protectable.count(machines) == 2


def test_of_plans_that_race_for_a_name_one_gets_it(protectable: World) -> None:
    ends = race(*(lambda n=n: make_plan(protectable, "shop", f"own {n}") for n in range(4)))
    assert sorted(type(end).__name__ for end in ends) == ["NameTaken"] * 3 + ["NoneType"]


def test_plans_that_swap_machines_at_once_do_not_both_get_one(protectable: World) -> None:
    first, second = make_plan(protectable, "one", "a"), make_plan(protectable, "two", "b")

    def edit(plan: Any, *labels: str) -> None:
        with protectable.database.write() as connection:
            plans.edit(connection, NOW, plan, PlanEdit(machines=labels), ACTOR)

    ends = race(lambda: edit(first, "a", "c"), lambda: edit(second, "b", "c"))
    assert sorted(type(end).__name__ for end in ends) == ["MachineProtected", "NoneType"]
    with pytest.raises(MachineProtected):
        edit(first, "b")
    with pytest.raises(NameTaken), protectable.database.write() as connection:
        plans.edit(connection, NOW, first, PlanEdit(name="two"), ACTOR)
