from datetime import time

import pytest

from dmcore.api.limits import MIN_RATE_BYTES_S, NO_LIMIT, Limit, Weekday, Window
from dmcore.control.queue.shares import LIVE_S, divided, is_live, site_share
from dmcore.control.store.database import Database
from dmcore.control.store.tables import nodes
from dmcore.model.enums import Role
from tests.control.queue_kit import NOW, World, after

NIGHT = Window(days=tuple(Weekday), start=time(22), end=time(6), bytes_s=None)
NOON = Window(days=(Weekday.MON,), start=time(12), end=time(13), bytes_s=4000)
LIMIT = Limit(bytes_s=10_000, windows=(NIGHT, NOON), zone="Europe/Berlin")


def test_every_rate_is_divided() -> None:
    part = divided(LIMIT, 3)
    assert part.bytes_s == 3333
    assert [window.bytes_s for window in part.windows] == [None, 1333]
    assert (part.zone, part.windows[1].start) == ("Europe/Berlin", time(12))


@pytest.mark.parametrize(("limit", "parts", "rate"), [(NO_LIMIT, 5, None), (Limit(bytes_s=2048), 100, 1024)])
def test_no_limit_stays_none_and_nobody_is_stopped_dead(limit: Limit, parts: int, rate: int | None) -> None:
    assert MIN_RATE_BYTES_S == 1024
    assert divided(limit, parts).bytes_s == rate


def test_a_node_lives_while_it_asks() -> None:
    assert is_live(after(LIVE_S - 1), NOW)
    assert not is_live(after(LIVE_S), NOW)
    assert not is_live(NOW, None)


def test_live_appliances_share_their_sites(database: Database) -> None:
    world = World(database)
    world.site(limit=LIMIT)
    world.site("south")
    for letter in "abde":
        world.appliance(letter)
    world.appliance("f", "south")
    world.node("c" * 64, Role.CONNECTOR)
    world.change(nodes, "d" * 64, revoked_at=NOW)
    world.change(nodes, "e" * 64, seen_at=after(-LIVE_S))
    with database.read() as connection:
        assert site_share(connection, NOW, "north") == divided(LIMIT, 2)
        assert site_share(connection, after(3600), "north") == LIMIT
        assert site_share(connection, NOW, "south") == NO_LIMIT
