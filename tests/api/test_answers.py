import json
from typing import Any
from uuid import UUID

import pytest
from pydantic import ValidationError

from dmcore.api.answers import MAX_LISTED, MAX_MESSAGE_CHARACTERS, accepted, content, refusal
from dmcore.api.client_errors import ControlAnswerBroken, ControlBusy, ControlDenied, ControlFailing, ControlRefused
from dmcore.api.http import Answer
from dmcore.api.jobs import MAX_MACHINES
from dmcore.api.nodes import MAX_GROUPS, AssignedPlans
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


def test_what_is_shown_has_no_control_characters() -> None:
    """A terminal or a log would obey them."""
    assert str(refusal(refused(409, "x.y", message="a\x1b[2J\nb\u202e"))) == "a [2J b "
    with pytest.raises(ControlAnswerBroken) as caught:
        content(answer(200, {"control": str(UUID(int=1)), "api": "1.0", "\x1b]0;" + "k" * 5000: 1}), Health)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_faults_without_number_are_counted_and_not_listed() -> None:
    """A list of them takes hundreds of times the memory of the answer: a few MiB of it would end a node."""
    body = {f"x{number}": 0 for number in range(MAX_LISTED + 1)} | {"control": str(UUID(int=1)), "api": "1.0"}
    with pytest.raises(ControlAnswerBroken, match=f"Health: {MAX_LISTED + 1} faults") as caught:
        content(answer(200, body), Health)
    assert caught.value.__cause__ is caught.value.__context__ is None  # it holds the whole answer


def test_plans_are_refused_at_the_first_that_is_wrong() -> None:
    with pytest.raises(ValidationError) as caught:
        AssignedPlans.model_validate({"version": 1, "site_limit": {}, "groups": [{}] * 1000})
    assert caught.value.error_count() < 10


def test_plans_without_number() -> None:
    group = {
        "plan": UUID(int=1), "group": UUID(int=2), "machines": ("web1",), "rpo_s": 60, "paused": False, "limit": {},
    }  # fmt: skip
    body = {"version": 1, "site_limit": {}, "groups": [group] * MAX_GROUPS}
    assert len(AssignedPlans.model_validate(body).groups) == MAX_GROUPS
    with pytest.raises(ValidationError, match="at most"):
        AssignedPlans.model_validate(body | {"groups": [group] * (MAX_GROUPS + 1)})
    with pytest.raises(ValidationError, match="at most"):
        AssignedPlans.model_validate(body | {"groups": [group | {"machines": ["m"] * (MAX_MACHINES + 1)}]})
