import io
import json
from collections.abc import Iterator

import pytest
import structlog

from dmcore.host.logs import REDACTED, configure, redact
from dmcore.host.settings import LogFormat, LogLevel, LogSettings

SECRET = "deadbeefdeadbeef"


@pytest.fixture(autouse=True)
def _undo() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def test_json_with_bound_ids() -> None:
    stream = io.StringIO()
    configure(LogSettings(format=LogFormat.JSON), stream)
    with structlog.contextvars.bound_contextvars(plan="p", correlation="c"):
        structlog.get_logger().info("sealed", disk="d", dek_version=3)
    line = json.loads(stream.getvalue())
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "sealed",
        "level": "info",
        "plan": "p",
        "correlation": "c",
        "disk": "d",
        "dek_version": 3,
    }


def test_level() -> None:
    stream = io.StringIO()
    configure(LogSettings(level=LogLevel.WARNING), stream)
    structlog.get_logger().info("quiet")
    structlog.get_logger().warning("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


@pytest.mark.parametrize("form", list(LogFormat))
def test_no_key_from_a_traceback(form: LogFormat) -> None:
    stream = io.StringIO()
    configure(LogSettings(format=form), stream)
    dek = SECRET * 2
    try:
        int(dek[:0])
    except ValueError:
        structlog.get_logger().exception("failed")
    assert "ValueError" in stream.getvalue()
    assert SECRET not in stream.getvalue()


@pytest.mark.parametrize(
    "event",
    [
        {"key": SECRET},
        {"DEK": SECRET},
        {"wrapped_dek": SECRET},
        {"digest-key": SECRET},
        {"pairing_token": SECRET},
        {"ticket": SECRET},
        {"secret": {"deep": SECRET}},
        {"job": {"ticket": SECRET, "plan": "p"}},
        {"jobs": [{"ticket": SECRET}]},
        {"tokens": [SECRET]},
        {"data": SECRET.encode()},
        {"data": [memoryview(SECRET.encode())]},
    ],
    ids=lambda event: next(iter(event)),
)
def test_redacted(event: dict[str, object]) -> None:
    cleaned = str(redact(None, "info", dict(event)))
    assert SECRET not in cleaned
    assert REDACTED in cleaned


def test_kept() -> None:
    event = {"event": "x", "keyboard": "us", "monkey": "m", "dek_version": 2, "tuple": (1, "b")}
    assert redact(None, "info", dict(event)) == {**event, "tuple": [1, "b"]}
