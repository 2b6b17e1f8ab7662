"""The application of a control plane on a fresh database, and its clock."""

import pytest

from dmcore.control.plane import Plane
from dmcore.control.store.database import Database
from dmcore.model.enums import Role
from tests.control.web_kit import HandClock, NodeKit, Web, enrolled, make_plane


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def plane(sqlite_database: Database, clock: HandClock) -> Plane:
    return make_plane(sqlite_database, clock)


@pytest.fixture
def web(plane: Plane) -> Web:
    return Web(plane)


@pytest.fixture
def appliance(web: Web) -> NodeKit:
    return enrolled(web, Role.APPLIANCE, sources=["vms"])


@pytest.fixture
def connector(web: Web) -> NodeKit:
    return enrolled(web, Role.CONNECTOR, "aws", targets=["shadows"], recoveries=["standby"])
