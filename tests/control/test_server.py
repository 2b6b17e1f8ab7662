"""The real server: TLS 1.3, the real client, a clean end."""

import gc
import re
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from dmcore.api.client_errors import ControlDenied
from dmcore.api.http import Transport
from dmcore.api.join import JoinToken
from dmcore.api.operator_client import OperatorClient
from dmcore.api.operators import JoinSpec
from dmcore.api.plans import PlanSpec, SiteSpec
from dmcore.api.server_trust import ServerTrust, pinned_context
from dmcore.control.errors import StoreBusy
from dmcore.control.plane import initialise
from dmcore.control.reports.metrics import tick_seconds
from dmcore.control.server import COLLECT_AFTER, CalmCollector, ControlServer, _TimedScheduler
from dmcore.control.serving_errors import CannotListen, ServerStopped
from dmcore.control.settings import ControlPlaneSettings, LeaseSettings, TlsSettings
from dmcore.control.web.http import MAX_HEAD_BYTES, listen
from dmcore.host.address import Address
from dmcore.host.errors import FileBroken, MetricsUnreachable, NodeRunning
from dmcore.host.settings import MetricsSettings
from dmcore.model.enums import Role
from tests.control.web_kit import NodeKit, encoded


@pytest.fixture
def settings(tmp_path: Path) -> ControlPlaneSettings:
    return ControlPlaneSettings(
        state_dir=tmp_path / "state", listen=Address("127.0.0.1", 0), leases=LeaseSettings(tick_s=0.1),
        metrics=MetricsSettings(listen=Address("127.0.0.1", 0)),
    )  # fmt: skip


@pytest.fixture
def secret(settings: ControlPlaneSettings) -> str:
    return initialise(settings).secret


@pytest.fixture
def running(settings: ControlPlaneSettings, secret: str) -> Iterator[ControlServer]:
    with ControlServer(settings) as found:
        yield found


def transport_to(running: ControlServer) -> Transport:
    return Transport(running.plane.urls, ServerTrust(fingerprint=running.plane.certificate.fingerprint))


def test_it_serves_tls_1_3_to_its_own_client(running: ControlServer, secret: str) -> None:
    pem = ssl.get_server_certificate((running.address.host, running.address.port))
    assert ssl.PEM_cert_to_DER_cert(pem)
    with OperatorClient(transport_to(running), secret) as client:
        assert client.health().control == running.plane.control
        client.create_site(SiteSpec(name="paris"))
        assert [site.name for site in client.sites().sites] == ["paris"]
        assert JoinToken.decode(client.create_join(JoinSpec(site="paris", role=Role.APPLIANCE)).token).urls == (
            f"https://{running.address}",
        )
    with OperatorClient(transport_to(running), "dmo_nobody") as nobody, pytest.raises(ControlDenied):
        nobody.sites()
    context = ssl.create_default_context(cadata=pem)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(OSError, match="SSL"):
        urlopen(f"https://{running.address}/v1/health", context=context)


def test_a_head_without_end_is_cut_off(running: ControlServer) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    address = (running.address.host, running.address.port)
    with socket.create_connection(address, 20) as plain, context.wrap_socket(plain) as client:
        client.sendall(b"GET /v1/health HTTP/1.1\r\nx: ")
        with pytest.raises(OSError, match=r"reset|EOF|Broken pipe"):
            client.sendall(b"x" * (1024 * MAX_HEAD_BYTES))


class NetNode(NodeKit):
    """A node that asks over the network."""

    def __init__(self, running: ControlServer, transport: Transport, role: Role, site: str) -> None:
        super().__init__(None, role, site, clock=running.plane.clock)  # type: ignore[arg-type]
        self.transport, self.control = transport, running.plane.control

    def say(self, path: str, body: object) -> Any:
        data = encoded(body)
        signature = self.signature("POST", path, data, audience=self.control)
        return self.transport.send("POST", path, data, {"Authorization": signature}, 60)


def joined(running: ControlServer, client: OperatorClient, transport: Transport, role: Role, **told: Any) -> NetNode:
    node = NetNode(running, transport, role, "paris")
    token = JoinToken.decode(client.create_join(JoinSpec(site="paris", role=role)).token)
    assert node.say("/v1/nodes/enroll", node.enroll_request(token)).status == 200
    assert node.say("/v1/nodes/poll", node.poll_body(slots=0, **told)).status == 200
    return node


def test_a_plan_becomes_a_job_of_a_node_that_waits(running: ControlServer, secret: str) -> None:
    """Through the scheduler: nobody asks for the cycle."""
    with OperatorClient(transport_to(running), secret) as client, closing(transport_to(running)) as transport:
        client.create_site(SiteSpec(name="paris"))
        joined(running, client, transport, Role.CONNECTOR, targets=["aws"])
        appliance = joined(running, client, transport, Role.APPLIANCE, sources=["vms"])
        client.create_plan(PlanSpec(name="shop", source="vms", target="aws", machines=("web1",), rpo_s=300))
        deadline, found = time.monotonic() + 60, b""
        while b'"ticket"' not in found and time.monotonic() < deadline:
            found = appliance.say("/v1/nodes/poll", appliance.poll_body(sources=["vms"], wait_s=10)).body
        assert b'"ticket"' in found
        assert [plan.running for plan in client.status().plans] == [1]
    assert running.metrics is not None
    with urlopen(f"http://{running.metrics.address}/metrics") as scraped:
        assert b"dmcore_leases 1.0" in scraped.read()


def test_it_stops_while_polls_wait(settings: ControlPlaneSettings, secret: str) -> None:
    with ControlServer(settings) as running, OperatorClient(transport_to(running), secret) as client:
        client.create_site(SiteSpec(name="paris"))
        with closing(transport_to(running)) as transport:
            node = joined(running, client, transport, Role.CONNECTOR)
            answers: list[Any] = []

            def wait() -> None:
                answers.append(node.say("/v1/nodes/poll", node.poll_body(wait_s=30)))

            thread = threading.Thread(target=wait)
            thread.start()
            while not running.plane.waiters.waiting:
                thread.join(0.01)
            began = time.monotonic()
            running.stop()
            thread.join()
    assert answers[0].status == 200
    assert time.monotonic() - began < 25
    running.stop()
    with ControlServer(settings):  # everything is free again
        pass


@pytest.mark.parametrize("said", [b"", b"GET /v1/heal"], ids=["nothing", "half a head"])
def test_one_that_connects_and_does_not_ask_is_cut_off(
    running: ControlServer, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr("dmcore.control.web.http.ASK_S", 0.1)
    context = pinned_context(running.plane.certificate.certificate.read_text(), "the server's")
    with (
        socket.create_connection((running.address.host, running.address.port), timeout=20) as plain,
        context.wrap_socket(plain) as line,
    ):
        line.sendall(said)
        with suppress(ConnectionResetError):
            assert line.recv(1) == b""


def test_one_whose_body_does_not_come_is_cut_off(running: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dmcore.control.web.http.ASK_S", 0.1)  # for the head, which does come
    monkeypatch.setattr("dmcore.control.web.gate.BODY_S", 0.5)
    context = pinned_context(running.plane.certificate.certificate.read_text(), "the server's")
    with (
        socket.create_connection((running.address.host, running.address.port), timeout=20) as plain,
        context.wrap_socket(plain) as line,
    ):
        line.sendall(b"POST /v1/nodes/poll HTTP/1.1\r\nHost: control\r\nContent-Length: 9\r\n\r\n{")
        said = b"".join(iter(lambda: line.recv(4096), b""))
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b"request.slow" in said
    assert b"connection: close" in said.lower()


def test_one_process_a_state_directory(running: ControlServer, settings: ControlPlaneSettings) -> None:
    with pytest.raises(NodeRunning):
        ControlServer(settings)


@pytest.mark.parametrize("which", ["listen", "metrics"])
def test_an_address_that_is_taken_is_named(settings: ControlPlaneSettings, secret: str, which: str) -> None:
    with closing(listen(Address("127.0.0.1", 0))) as taken:
        address = Address("127.0.0.1", taken.getsockname()[1])
        value: object = address if which == "listen" else MetricsSettings(listen=address)
        for _ in range(2):  # the first try leaves nothing behind
            with pytest.raises((CannotListen, MetricsUnreachable), match=re.escape(str(address))):
                ControlServer(settings.model_copy(update={which: value}))
    with pytest.raises(CannotListen, match=r"nowhere\.invalid"):
        listen(Address("nowhere.invalid", 1))


def test_a_key_that_does_not_fit_its_certificate_is_named(
    settings: ControlPlaneSettings, secret: str, tmp_path: Path
) -> None:
    other = settings.model_copy(update={"state_dir": tmp_path / "other"})
    initialise(other)
    tls = TlsSettings(certificate=settings.state_dir / "tls.pem", key=other.state_dir / "tls.key")
    with pytest.raises(FileBroken, match="not the key"):
        ControlServer(settings.model_copy(update={"tls": tls}))


def test_a_server_that_ends_by_itself_is_noticed(
    settings: ControlPlaneSettings, secret: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        ended.set()
        raise ZeroDivisionError

    ended = threading.Event()
    monkeypatch.setattr("uvicorn.Server.run", broken)
    with capture_logs() as lines, ControlServer(settings) as running:
        ended.wait(20)
        running.stop()
        with pytest.raises(ServerStopped, match="HTTP server"):
            running.check()
    assert {"event": "the HTTP server ended", "kind": "ZeroDivisionError", "log_level": "error"} in lines


def test_ticks_are_counted_by_what_they_take(running: ControlServer) -> None:
    assert running.metrics is not None
    deadline, ticks = time.monotonic() + 60, 0.0
    while not ticks and time.monotonic() < deadline:
        with urlopen(f"http://{running.metrics.address}/metrics") as scraped:
            found = re.search(rb"dmcore_control_tick_seconds_count (\S+)", scraped.read())
        assert found
        ticks = float(found[1])
    assert ticks


def test_a_tick_that_fails_is_counted_too(running: ControlServer, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise StoreBusy

    registry = CollectorRegistry()
    scheduler = _TimedScheduler(running.plane.database, 1, lambda _: None)
    scheduler.seconds = tick_seconds(registry)
    monkeypatch.setattr(running.plane.database, "write", fail)
    with pytest.raises(StoreBusy):
        scheduler._tick()
    monkeypatch.undo()
    assert registry.get_sample_value("dmcore_control_tick_seconds_count") == 1


def test_garbage_is_looked_for_seldom_while_it_serves(settings: ControlPlaneSettings, secret: str) -> None:
    before, frozen = gc.get_threshold(), gc.get_freeze_count()
    with ControlServer(settings):
        assert gc.get_threshold() == COLLECT_AFTER != before
        assert gc.get_freeze_count() > frozen
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() <= frozen


def test_what_never_began_changes_nothing_at_its_end() -> None:
    before = gc.get_threshold()
    gc.freeze()
    try:
        collector = CalmCollector()
        collector.stop()
        assert gc.get_freeze_count() > 0
        assert gc.get_threshold() == before
    finally:
        gc.unfreeze()
