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
MAX_PLACE_CHARACTERS = 100
MAX_LISTED = 1000
"""Listing the faults of an answer takes much more memory than the answer: of more than these none is listed."""
NOTHING = 204
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
        problem = _first_fault(refused, reply.__name__)
    raise ControlAnswerBroken(url=answer.url, problem=problem)  # without a cause: that one holds the whole answer


def require_taken(answer: Answer) -> None:
    """The answer to a message that nothing is answered to: a proxy's page does not mean that it was taken.

    Raises: as `content` does.
    """
    if accepted(answer).status != NOTHING:
        raise ControlAnswerBroken(url=answer.url, problem=f"HTTP status {answer.status} instead of {NOTHING}")


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
    message = _shown(body.message, MAX_MESSAGE_CHARACTERS)
    return kind(reason=body.code, message=message, status=answer.status, correlation=body.correlation)


def _first_fault(refused: ValidationError, name: str) -> str:
    if refused.error_count() > MAX_LISTED:
        return f"{name}: {refused.error_count()} faults"
    first = refused.errors(include_url=False, include_input=False, include_context=False)[0]
    where = _shown(".".join(map(str, first["loc"])), MAX_PLACE_CHARACTERS) or name
    return f"{where}: {first['msg']}"


def _shown(text: str, limit: int) -> str:
    """Whoever answers chooses it, and it ends in terminals and logs."""
    return "".join(sign if sign.isprintable() else " " for sign in text[:limit])


def _kind(status: int, reason: str) -> type[ControlRefused]:
    if status == 401 or reason in TRUST_REASONS:
        return ControlDenied
    if status in {429, 503}:
        return ControlBusy
    return ControlFailing if status >= 500 else ControlRefused
