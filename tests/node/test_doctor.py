"""What both kinds of node are checked for."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from dmcore.api.client_errors import ControlDenied, ControlRefused
from dmcore.api.http import Answer
from dmcore.api.server_trust import ServerTrust
from dmcore.lab.layout import make_lab
from dmcore.model.enums import Role
from dmcore.node import doctor
from dmcore.node.enrolment import Enrolment
from dmcore.node.errors import AliasUnknown
from dmcore.node.findings import Finding, Level, fail, ok, results, warn, worst
from dmcore.node.identity import load_identity
from dmcore.node.settings import NodeSettings, load_appliance
from tests.trust_kit import FakeClock, make_connector


def levels(found: Iterator[Finding]) -> list[Level]:
    return [each.level for each in found]


class TestResults:
    def test_a_check_that_cannot_be_made_is_a_finding(self) -> None:
        def broken() -> list[Finding]:
            raise AliasUnknown(noun="source", alias="x", known="none")

        def unreadable() -> list[Finding]:
            raise PermissionError(13, "Permission denied", "/x")

        def nameless() -> list[Finding]:
            raise OSError("odd")

        checks = {"a": broken, "b": unreadable, "c": nameless, "d": lambda: [ok("d", "fine")]}
        found = list(results(checks))
        assert [(each.check, each.level) for each in found] == [
            ("a", Level.FAIL), ("b", Level.FAIL), ("c", Level.FAIL), ("d", Level.OK),
        ]  # fmt: skip
        assert "alias.unknown" in found[0].advice
        assert found[1].found == "/x: Permission denied"

    def test_the_worst(self) -> None:
        good, so_so, bad = ok("a", ""), warn("b", "", ""), fail("c", "", "")
        assert [worst(each) for each in ([], [good], [good, so_so], [so_so, bad, good])] == [
            Level.OK, Level.OK, Level.WARN, Level.FAIL,
        ]  # fmt: skip


class TestFiles:
    def test_open_to_others(self, tmp_path: Path) -> None:
        secret = tmp_path / "key"
        secret.write_text("x")
        for path, private, shared in ((secret, 0o600, 0o640), (tmp_path, 0o700, 0o755)):
            path.chmod(private)
            assert levels(doctor.check_private({"key": path})) == [Level.OK]
            path.chmod(shared)
            (found,) = doctor.check_private({"key": path})
            assert (found.level, found.advice) == (Level.FAIL, f"chmod {private:o} {path}")

    def test_a_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert levels(doctor.check_folder("x", tmp_path / "gone")) == [Level.FAIL]
        for free, expected in ((50, Level.OK), (9, Level.WARN), (4, Level.FAIL)):
            space = os.statvfs_result((4096, 4096, 100, free, free, 0, 0, 0, 0, 255))
            monkeypatch.setattr(os, "statvfs", lambda _, space=space: space)
            assert levels(doctor.check_folder("x", tmp_path, reserve_bytes=5 * 4096)) == [expected]
        monkeypatch.setattr(os, "access", lambda *_: False)
        (found,) = doctor.check_folder("x", tmp_path)
        assert "cannot be written" in found.found

    def test_a_certificate(self, tmp_path: Path) -> None:
        made = make_connector(tmp_path)
        made.server.stop()
        path, now = made.certificate_path, datetime.now(UTC)
        for days, expected in ((0, Level.OK), (345, Level.WARN), (9999, Level.FAIL)):
            assert levels(doctor.check_certificate("x", path, now + timedelta(days=days), "y")) == [expected]
        path.write_text("no certificate")
        assert levels(doctor.check_certificate("x", path, now, "y")) == [Level.FAIL]


class FakeTransport:
    date: datetime | None = None
    refusal: Exception | None = None

    def __init__(self, *_: Any) -> None:
        pass

    def send(self, method: str, path: str, *_: Any) -> Answer:
        if path == "/v1/health":
            return Answer("https://c", 200, b"", self.date)
        if self.refusal is not None:
            raise self.refusal
        body = b'{"version": 1, "site_limit": {}, "groups": []}'
        return Answer("https://c", 200, body, self.date)

    def close(self) -> None:
        pass


class TestControl:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> NodeSettings:
        return load_appliance(make_lab(tmp_path / "lab").appliance_config)

    @pytest.fixture
    def enrolled(self, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch) -> NodeSettings:
        known = Enrolment(uuid4(), ("https://c",), settings.site, Role.APPLIANCE, ServerTrust(), Path("ticket.pub"))
        monkeypatch.setattr(doctor, "load_enrolment", lambda _: known)
        monkeypatch.setattr(doctor, "Transport", FakeTransport)
        return settings

    def check(self, settings: NodeSettings) -> list[Finding]:
        return list(doctor.check_control(settings, lambda: load_identity(settings.state_dir), FakeClock()))

    def test_not_enrolled(self, settings: NodeSettings) -> None:
        (found,) = self.check(settings)
        assert (found.level, "not enrolled" in found.found) == (Level.WARN, True)

    def test_known_there(self, enrolled: NodeSettings) -> None:
        (found,) = self.check(enrolled)
        assert found == ok("control plane", "https://c answers and knows this node")

    @pytest.mark.parametrize(
        ("refusal", "expected"),
        [
            (ControlDenied(reason="node.unknown", message="who?", status=401), Level.FAIL),
            (ControlRefused(reason="x", message="odd", status=418), Level.WARN),
        ],
    )
    def test_not_known_there(
        self, enrolled: NodeSettings, monkeypatch: pytest.MonkeyPatch, refusal: Exception, expected: Level
    ) -> None:
        monkeypatch.setattr(FakeTransport, "refusal", refusal)
        assert [each.level for each in self.check(enrolled)] == [expected]

    @pytest.mark.parametrize(
        ("seconds", "expected"),
        [(3, Level.OK), (-29, Level.OK), (31, Level.WARN), (-31, Level.WARN), (600, Level.FAIL), (-1e6, Level.FAIL)],
    )
    def test_the_clocks(
        self, enrolled: NodeSettings, monkeypatch: pytest.MonkeyPatch, seconds: float, expected: Level
    ) -> None:
        monkeypatch.setattr(FakeTransport, "date", FakeClock().now + timedelta(seconds=seconds))
        assert self.check(enrolled)[0].level is expected
        assert ("behind" if seconds > 0 else "ahead of") in self.check(enrolled)[0].found
