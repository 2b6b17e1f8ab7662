"""What Prometheus gets, what anybody else gets, and that a slow client holds nobody up."""

import socket
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Gauge

from dmcore.host.address import Address
from dmcore.host.errors import MetricsUnreachable
from dmcore.host.metrics import MAX_CLIENTS, MetricsServer

ANY = Address("127.0.0.1", 0)
TIMEOUT_S = 10


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Gauge("dmcore_answer", "The answer.", registry=made).set(42)
    return made


def fetch(server: MetricsServer, path: str = "/metrics") -> str:
    with urllib.request.urlopen(f"http://{server.address}{path}", timeout=TIMEOUT_S) as reply:
        assert reply.headers["Content-Type"].startswith("text/plain")
        return str(reply.read().decode())


def connected(server: MetricsServer) -> socket.socket:
    return socket.create_connection((server.address.host, server.address.port), TIMEOUT_S)


def test_the_registry_as_text(registry: CollectorRegistry) -> None:
    with MetricsServer(ANY, registry) as server:
        assert "dmcore_answer 42.0" in fetch(server)
        assert "dmcore_answer" in fetch(server, "/metrics?name=x")


@pytest.mark.parametrize("path", ["/", "/metrics/x", "/..%2fmetrics"])
def test_nothing_else_is_there(registry: CollectorRegistry, path: str) -> None:
    with MetricsServer(ANY, registry) as server, pytest.raises(urllib.error.HTTPError) as refused:
        fetch(server, path)
    assert refused.value.code == 404
    refused.value.close()


def test_only_get_is_answered(registry: CollectorRegistry) -> None:
    with MetricsServer(ANY, registry) as server, connected(server) as client:
        client.sendall(b"POST /metrics HTTP/1.0\r\n\r\n")
        assert b" 501 " in client.recv(1 << 16)


def test_silent_clients_hold_nobody_up_and_the_oldest_makes_room(registry: CollectorRegistry) -> None:
    with MetricsServer(ANY, registry) as server:
        silent = [connected(server) for _ in range(MAX_CLIENTS)]
        assert "dmcore_answer" in fetch(server)
        assert silent[0].recv(1) == b""
        for client in silent:
            client.close()


def test_stop_cuts_who_is_connected(registry: CollectorRegistry) -> None:
    server = MetricsServer(ANY, registry)
    server.start()
    with connected(server) as client:
        client.sendall(b"GET /metr")
        fetch(server)  # accepted in their order: so this client was, too
        server.stop()
        server.stop()
        assert client.recv(1) == b""


def test_a_server_that_never_started_can_be_stopped(registry: CollectorRegistry) -> None:
    MetricsServer(ANY, registry).stop()


def test_an_address_that_is_taken(registry: CollectorRegistry) -> None:
    with MetricsServer(ANY, registry) as server, pytest.raises(MetricsUnreachable, match="stop what uses it"):
        MetricsServer(server.address, registry)


def test_an_address_of_another_machine(registry: CollectorRegistry) -> None:
    with pytest.raises(MetricsUnreachable, match=r"192\.0\.2\.1:9"):
        MetricsServer(Address("192.0.2.1", 9), registry)


def test_ipv6(registry: CollectorRegistry) -> None:
    with MetricsServer(Address("::1", 0), registry) as server:
        assert "dmcore_answer" in fetch(server)
