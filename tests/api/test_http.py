"""The transport against a server that misbehaves."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from dmcore.api.base import API_VERSION, VERSION_HEADER
from dmcore.api.client_errors import (
    AddressMalformed,
    AuthorityUnreadable,
    ControlAnswerBroken,
    ControlUnreachable,
    ControlUntrusted,
    PinDiffers,
)
from dmcore.api.http import Answer, Transport, date_of
from dmcore.api.server_trust import ServerTrust
from dmcore.errors import ConnectionFailed
from dmcore.lab.layout import free_ports
from tests.api.certificates import authority, issued, own_certificate
from tests.api.fake_control import FakeControl, Fault, Refuse

HEALTH = "/v1/health"


@pytest.fixture
def transport(control: FakeControl) -> Iterator[Transport]:
    made = Transport([control.url], ServerTrust(fingerprint=control.files.fingerprint), max_answer_bytes=64 << 10)
    with closing(made):
        yield made


def ask(urls: str | list[str], trust: ServerTrust, body: bytes = b"") -> Answer:
    """One request over connections of its own."""
    with closing(Transport([urls] if isinstance(urls, str) else urls, trust)) as transport:
        return transport.send("POST" if body else "GET", HEALTH, body)


def test_an_answer_comes_whole(control: FakeControl, transport: Transport) -> None:
    control.answers["POST /v1/x"] = {"a": [1]}
    control.ahead = timedelta(minutes=5)
    answer = transport.send("POST", "/v1/x?y=1", b'{"q": 2}', {"Authorization": "me"})
    assert (answer.status, answer.body, answer.url) == (200, b'{"a": [1]}', control.url)
    assert answer.date is not None
    assert abs(answer.date - datetime.now(UTC) - control.ahead) < timedelta(seconds=30)
    [asked] = control.asked
    assert (asked.path, asked.body) == ("/v1/x?y=1", b'{"q": 2}')
    assert asked.headers[VERSION_HEADER] == API_VERSION
    assert asked.headers["Content-Type"] == "application/json"
    assert asked.headers["Authorization"] == "me"


def test_a_refusal_is_an_answer_too(control: FakeControl, transport: Transport) -> None:
    control.faults = [Refuse(409, "lease.lost")]
    assert transport.send("GET", HEALTH).status == 409


def test_a_connection_is_used_again(control: FakeControl, transport: Transport) -> None:
    control.answers["GET /v1/health"] = {}
    before = control.connections
    for _ in range(3):
        transport.send("GET", HEALTH)
    assert control.connections - before <= 2  # one to see the certificate, one to ask


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Fault.SILENT, ControlUnreachable),
        (Fault.CUT, ControlUnreachable),
        (Fault.HUNG_UP, ControlUnreachable),
        (Fault.DRIP, ControlUnreachable),
        (Fault.HEAD_DRIP, ControlUnreachable),
        (Fault.CONTINUE, ControlUnreachable),
        (Fault.TRAILERS, ControlUnreachable),
        (Fault.LONG_CHUNK, ControlUnreachable),
        (Fault.SPLIT, ControlUnreachable),
        (Fault.HUGE, ControlAnswerBroken),
        (Fault.REDIRECT, ControlAnswerBroken),
        (Fault.COMPRESSED, ControlAnswerBroken),
    ],
)
def test_a_fault_is_an_error_and_the_next_request_works(
    control: FakeControl, transport: Transport, fault: Fault, expected: type[ConnectionFailed]
) -> None:
    control.answers["GET /v1/health"] = {"fine": True}
    control.faults = [fault]
    with pytest.raises(expected) as caught:
        transport.send("GET", HEALTH, timeout_s=0.3)
    assert control.url in str(caught.value)
    assert not caught.value.permanent
    assert transport.send("GET", HEALTH).body == b'{"fine": true}'
    assert [each.path for each in control.asked] == [HEALTH, HEALTH]  # nothing was asked twice, nor elsewhere


@pytest.mark.parametrize("trust", [ServerTrust(fingerprint="0" * 64), ServerTrust()], ids=["pin", "ca"])
def test_nobody_listens(trust: ServerTrust) -> None:
    [port] = free_ports(1)
    with pytest.raises(ControlUnreachable, match="Connection refused"):
        ask(f"https://127.0.0.1:{port}", trust)


def test_the_address_that_answers_is_taken_first_from_then_on(control: FakeControl) -> None:
    control.answers["GET /v1/health"] = {}
    [port] = free_ports(1)
    dead = f"https://127.0.0.1:{port}"
    with closing(Transport([dead, control.url], ServerTrust(fingerprint=control.files.fingerprint))) as transport:
        assert transport.send("GET", HEALTH).url == control.url
        assert transport.send("GET", HEALTH).url == control.url


@pytest.mark.parametrize("fault", [Fault.SILENT, Fault.HUNG_UP, Fault.REDIRECT, Fault.PAGE_500])
def test_one_that_takes_requests_and_answers_none_is_not_asked_for_ever(
    control: FakeControl, tmp_path: Path, fault: Fault
) -> None:
    """What was sent may have arrived: it is not sent again, but the next request goes elsewhere first."""
    control.answers["GET /v1/health"] = {}
    with FakeControl.make(tmp_path, control.files) as sick:
        sick.faults = [fault] * 2
        trust = ServerTrust(fingerprint=control.files.fingerprint)
        with closing(Transport([sick.url, control.url], trust)) as transport:
            with suppress(ControlUnreachable, ControlAnswerBroken):
                assert transport.send("GET", HEALTH, timeout_s=0.3).status == 500
            assert control.asked == []
            assert transport.send("GET", HEALTH, timeout_s=5).url == control.url
        assert len(sick.asked) == 1


@contextmanager
def no_tls() -> Iterator[str]:
    """A server that speaks something else."""

    def serve(listener: socket.socket) -> None:
        connection, _ = listener.accept()
        with connection, suppress(OSError):  # the client goes away
            connection.sendall(b"220 mail.example ESMTP\r\n")
            while connection.recv(1024):
                pass

    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        thread = threading.Thread(target=serve, args=(listener,))
        thread.start()
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
        thread.join()


def test_a_server_of_another_kind_is_passed_by(control: FakeControl) -> None:
    control.answers["GET /v1/health"] = {}
    files = control.files
    trust = ServerTrust(fingerprint=files.fingerprint, certificate_path=files.certificate)
    with no_tls() as other:
        assert ask([other, control.url], trust).url == control.url
    with no_tls() as other, pytest.raises(ControlUnreachable, match="SSL"):
        ask(other, trust)


class TestPin:
    def test_another_certificate_gets_nothing(self, control: FakeControl) -> None:
        with pytest.raises(PinDiffers) as caught:
            ask(control.url, ServerTrust(fingerprint="0" * 64), b"secret")
        assert (caught.value.pinned, caught.value.found) == ("0" * 64, control.files.fingerprint)
        assert control.asked == []

    def test_nor_does_one_that_takes_the_place_of_the_pinned(self, control: FakeControl, tmp_path: Path) -> None:
        """A certificate that we hold is not fetched again: the handshake itself fails."""
        pinned = own_certificate(tmp_path, "pinned")
        trust = ServerTrust(fingerprint=pinned.fingerprint, certificate_path=pinned.certificate)
        with pytest.raises(PinDiffers) as caught:
            ask(control.url, trust, b"secret")
        assert (caught.value.pinned, caught.value.found) == (pinned.fingerprint, control.files.fingerprint)
        assert control.asked == []

    def test_the_one_that_is_held_is_accepted(self, control: FakeControl) -> None:
        control.answers["GET /v1/health"] = {}
        files = control.files
        trust = ServerTrust(fingerprint=files.fingerprint, certificate_path=files.certificate)
        assert ask(control.url, trust).status == 200

    def test_the_right_one_at_another_address_is_found(self, control: FakeControl, tmp_path: Path) -> None:
        control.answers["GET /v1/health"] = {}
        trust = ServerTrust(fingerprint=control.files.fingerprint)
        with FakeControl.make(tmp_path, own_certificate(tmp_path, "other")) as other:
            assert ask([other.url, control.url], trust).url == control.url
            assert other.asked == []

    def test_an_expired_one_is_not_taken_for_another(self, tmp_path: Path) -> None:
        old = own_certificate(tmp_path, "old", valid=(-9, -1))
        with FakeControl.make(tmp_path, old) as control:
            with pytest.raises(ControlUntrusted, match="expired"):
                ask(control.url, ServerTrust(fingerprint=old.fingerprint), b"secret")
            assert control.asked == []

    @pytest.mark.parametrize("content", [None, "nonsense", "\xff"], ids=["missing", "nonsense", "bytes"])
    def test_a_held_certificate_that_is_none(self, control: FakeControl, tmp_path: Path, content: str | None) -> None:
        path = tmp_path / "held.pem"
        if content is not None:
            path.write_text(content, encoding="latin-1")
        with pytest.raises(AuthorityUnreadable, match=r"held\.pem"):
            ask(control.url, ServerTrust(fingerprint="0" * 64, certificate_path=path))


class TestCa:
    @pytest.fixture
    def signed(self, tmp_path: Path) -> Iterator[tuple[FakeControl, Path]]:
        ca, key = authority(tmp_path)
        with FakeControl.make(tmp_path, issued(tmp_path, key)) as control:
            control.answers["GET /v1/health"] = {}
            yield control, ca

    def test_its_file_vouches_for_the_server(self, signed: tuple[FakeControl, Path]) -> None:
        control, ca = signed
        assert ask(control.url, ServerTrust(ca_file=ca)).status == 200

    def test_another_ca_does_not(self, signed: tuple[FakeControl, Path], tmp_path: Path) -> None:
        control, _ = signed
        other, _ = authority(tmp_path, "other")
        with pytest.raises(ControlUntrusted, match="--ca-file"):
            ask(control.url, ServerTrust(ca_file=other), b"secret")
        assert control.asked == []

    def test_nor_do_the_systems(self, signed: tuple[FakeControl, Path]) -> None:
        control, _ = signed
        with pytest.raises(ControlUntrusted):
            ask(control.url, ServerTrust(), b"secret")
        assert control.asked == []

    def test_the_host_must_be_the_certificates(self, tmp_path: Path) -> None:
        ca, key = authority(tmp_path)
        with FakeControl.make(tmp_path, issued(tmp_path, key, "control.example")) as control:
            with pytest.raises(ControlUntrusted, match=r"not valid for '127\.0\.0\.1'"):
                ask(control.url, ServerTrust(ca_file=ca), b"secret")
            assert control.asked == []

    @pytest.mark.parametrize("content", [None, "nonsense"])
    def test_a_file_that_is_none(self, control: FakeControl, tmp_path: Path, content: str | None) -> None:
        path = tmp_path / "company.pem"
        if content is not None:
            path.write_text(content)
        with pytest.raises(AuthorityUnreadable, match=r"company\.pem"):
            ask(control.url, ServerTrust(ca_file=path))


@pytest.mark.parametrize(
    "url",
    ["", "http://h", "https://", "https://h:0", "https://h:99999", "https://h/path", "https://u@h", "https://h\n",
     "h:1", "https://[::1", "https://[zz]:1", "https://[1:2]:3"],
)  # fmt: skip
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(AddressMalformed):
        Transport([url], ServerTrust())


def test_addresses_of_all_kinds() -> None:
    for url in ("https://control.example", "https://control.example:8443", "https://[::1]:8443", "https://10.0.0.1"):
        Transport([url], ServerTrust()).close()


class TestClose:
    def test_cuts_who_waits(self, control: FakeControl, transport: Transport) -> None:
        control.faults = [Fault.SILENT]
        caught: list[Exception] = []

        def ask() -> None:
            with pytest.raises(ControlUnreachable, match="closed") as raised:
                transport.send("GET", HEALTH, timeout_s=60)
            caught.append(raised.value)

        thread = threading.Thread(target=ask)
        thread.start()
        control.wait_asked("GET /v1/health")
        began = time.monotonic()
        transport.close()
        thread.join()
        assert time.monotonic() - began < 2
        assert caught

    def test_nothing_is_asked_afterwards(self, control: FakeControl, transport: Transport) -> None:
        control.answers["GET /v1/health"] = {}
        transport.send("GET", HEALTH)
        transport.close()
        transport.close()
        with pytest.raises(ControlUnreachable, match="closed"):
            transport.send("GET", HEALTH)
        assert len(control.asked) == 1


@pytest.mark.parametrize(
    "text",
    [
        None, "", "yesterday", "Mon, 99 Xyz 2026 25:61:61 GMT", "Sun, 01 Mar 2026 12:00:00 -0000",
        "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 1900 00:00:00 GMT",
    ],
)  # fmt: skip
def test_a_date_that_is_none(text: str | None) -> None:
    assert date_of(text) is None
