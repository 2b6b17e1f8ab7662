import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wire.certificates import Authority, context
from tests.wire.peers import Peers


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"), "ours")


@pytest.fixture(scope="session")
def contexts(authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's and the client's."""
    server = context(ssl.PROTOCOL_TLS_SERVER, authority, authority.issue("server"))
    return server, context(ssl.PROTOCOL_TLS_CLIENT, authority, authority.issue("client"))


@pytest.fixture
def peers(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Peers]:
    made = Peers(*contexts)
    yield made
    made.close()


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "stranger")
