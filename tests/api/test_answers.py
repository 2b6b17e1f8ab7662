import json
from typing import Any
from uuid import UUID

import pytest

from dmcore.api.answers import MAX_MESSAGE_CHARACTERS, accepted, content, refusal
from dmcore.api.client_errors import ControlAnswerBroken, ControlBusy, ControlDenied, ControlFailing, ControlRefused
from dmcore.api.http import Answer
from dmcore.api.operators import Health
from dmcore.errors import ExitCode

URL = "https://control.example"


def answer(status: int, body: object) -> Answer:
    return Answer(URL, status, body if isinstance(body, bytes) else json.dumps(body).encode(), None)


def refused(status: int, code: str, **changes: Any) -> Answer:
    return answer(status, {"code": code, "message": "because", "correlation": "c" * 32, **changes})


def test_a_message() -> None:
    found = content(answer(201, {"control": str(UUID(int=1)), "api": "1.0"}), Health)
    assert found.control == UUID(int=1)
    assert accepted(answer(204, b"")).status == 204


@pytest.mark.parametrize(
    "body", [b"", b"<html>", {}, {"control": "1", "api": "1.0"}, {"control": str(UUID(int=1)), "api": "1.0", "x": 1}]
)
def test_a_2xx_that_is_no_such_message(body: object) -> None:
    with pytest.raises(ControlAnswerBroken, match="does not answer as a control plane"):
        content(answer(200, body), Health)


@pytest.mark.parametrize(
    ("status", "code", "kind", "exit_code", "permanent"),
    [
        (401, "auth.required", ControlDenied, ExitCode.TRUST, True),
        (403, "join.refused", ControlDenied, ExitCode.TRUST, True),
        (403, "auth.role", ControlRefused, ExitCode.REFUSED, True),
        (404, "object.unknown", ControlRefused, ExitCode.REFUSED, True),
        (409, "lease.lost", ControlRefused, ExitCode.REFUSED, True),
        (413, "request.size", ControlRefused, ExitCode.REFUSED, True),
        (422, "request.invalid", ControlRefused, ExitCode.REFUSED, True),
        (426, "api.version", ControlRefused, ExitCode.REFUSED, True),
        (429, "too.many", ControlBusy, ExitCode.BUSY, False),
        (503, "store.busy", ControlBusy, ExitCode.BUSY, False),
        (500, "internal", ControlFailing, ExitCode.CONNECTION, False),
        (507, "store.full", ControlFailing, ExitCode.CONNECTION, False),
    ],
)
def test_a_refusal_has_the_control_planes_code(
    status: int, code: str, kind: type[ControlRefused], exit_code: ExitCode, permanent: bool
) -> None:
    with pytest.raises(kind) as caught:
        accepted(refused(status, code))
    error = caught.value
    assert type(error) is kind
    assert (error.code, error.reason, error.status, error.correlation) == (code, code, status, "c" * 32)
    assert (error.exit_code, error.permanent, str(error)) == (exit_code, permanent, "because")
    assert kind.code.startswith("control.")


@pytest.mark.parametrize("body", [b"", b"<html>Bad Gateway</html>", b"[" * 100_000, {"code": "Not A Code!"}])
def test_a_failure_that_is_not_of_a_control_plane(body: object) -> None:
    found = refusal(answer(502, body))
    assert isinstance(found, ControlAnswerBroken)
    assert "HTTP status 502" in str(found)


def test_a_long_message_is_cut() -> None:
    assert len(str(refusal(refused(409, "x.y", message="m" * 5000)))) == MAX_MESSAGE_CHARACTERS
