"""From what a control plane answered to a message, or to the error that its body names."""

from typing import TypeVar

from pydantic import ValidationError

from dmcore.api.base import ErrorBody, Message
from dmcore.api.client_errors import (
    ControlAnswerBroken,
    ControlBusy,
    ControlDenied,
    ControlFailing,
    ControlRefused,
)
from dmcore.api.http import Answer

MAX_MESSAGE_CHARACTERS = 1000
TRUST_REASONS = frozenset({"join.refused"})
"""Answered 403, and a matter of trust all the same."""

Reply = TypeVar("Reply", bound=Message)


def content(answer: Answer, reply: type[Reply]) -> Reply:
    """The message of a 2xx.

    Raises:
        ControlRefused, ControlDenied, ControlBusy, ControlFailing: another status.
        ControlAnswerBroken: the body is no such message.
    """
    try:
        return reply.model_validate_json(accepted(answer).body)
    except ValidationError as refused:
        first = refused.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(map(str, first["loc"])) or reply.__name__
        raise ControlAnswerBroken(url=answer.url, problem=f"{where}: {first['msg']}") from refused


def accepted(answer: Answer) -> Answer:
    """The answer, if it is a 2xx. Raises as `content` does."""
    if 200 <= answer.status < 300:
        return answer
    raise refusal(answer)


def refusal(answer: Answer) -> ControlRefused | ControlAnswerBroken:
    """The error of an answer that is not 2xx."""
    try:
        body = ErrorBody.model_validate_json(answer.body)
    except ValidationError:  # not JSON, or no such body: a proxy's page
        return ControlAnswerBroken(url=answer.url, problem=f"HTTP status {answer.status} without an error's body")
    kind = _kind(answer.status, body.code)
    message = body.message[:MAX_MESSAGE_CHARACTERS]
    return kind(reason=body.code, message=message, status=answer.status, correlation=body.correlation)


def _kind(status: int, reason: str) -> type[ControlRefused]:
    if status == 401 or reason in TRUST_REASONS:
        return ControlDenied
    if status in {429, 503}:
        return ControlBusy
    return ControlFailing if status >= 500 else ControlRefused
