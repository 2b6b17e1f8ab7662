"""Signed requests, by a clock that is corrected when the control plane says that it is off."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TypeVar
from uuid import UUID

import structlog

from dmcore.api.answers import content, refusal, require_taken
from dmcore.api.base import Message
from dmcore.api.client_errors import ControlRefused
from dmcore.api.http import EARLIEST, READ_TIMEOUT_S, Answer, Transport
from dmcore.api.signing import SKEWED, sign_request
from dmcore.host.clock import Clock
from dmcore.node.identity import Identity

Reply = TypeVar("Reply", bound=Message)

log = structlog.get_logger()


@dataclass
class Signer:
    """Signs as this node, to one control plane."""

    identity: Identity
    control: UUID
    clock: Clock
    skew: timedelta = field(default=timedelta(0), init=False)
    """How far the control plane's clock is ahead of ours. Only signatures go by it."""
    _warned: bool = field(default=False, init=False)

    def authorization(self, method: str, path: str, body: bytes) -> str:
        """The header's value."""
        now = max(self.clock() + self.skew, EARLIEST)  # a clock that was set back after it had been corrected
        return sign_request(self.identity.private_key, self.identity.node, self.control, method, path, body, now)

    def correct(self, answer: Answer) -> bool:
        """Whether this answer tells that the clock is off, and by how much; from now on it is taken into account."""
        if answer.status != 401 or answer.date is None:
            return False
        told = refusal(answer)
        if not isinstance(told, ControlRefused) or told.reason != SKEWED:
            return False
        self.skew = answer.date - self.clock()
        if not self._warned:
            log.warning("this machine's clock is off; set it", behind_s=round(self.skew.total_seconds()))
        self._warned = True
        return True


class SignedCalls:
    """Calls over one transport."""

    def __init__(self, transport: Transport, signer: Signer) -> None:
        self._transport, self._signer = transport, signer

    def ask(
        self, method: str, path: str, reply: type[Reply], message: Message | None = None,
        timeout_s: float = READ_TIMEOUT_S,
    ) -> Reply:  # fmt: skip
        """The answer to a message. Raises as `content` and `Transport.send` do."""
        return content(self._send(method, path, message, timeout_s), reply)

    def tell(self, method: str, path: str, message: Message) -> None:
        """A message whose answer says nothing but that it was taken. Raises as `ask` does."""
        require_taken(self._send(method, path, message, READ_TIMEOUT_S))

    def _send(self, method: str, path: str, message: Message | None, timeout_s: float) -> Answer:
        body = message.model_dump_json().encode() if message else b""
        answer = self._signed(method, path, body, timeout_s)
        return self._signed(method, path, body, timeout_s) if self._signer.correct(answer) else answer

    def _signed(self, method: str, path: str, body: bytes, timeout_s: float) -> Answer:
        headers = {"Authorization": self._signer.authorization(method, path, body)}
        return self._transport.send(method, path, body, headers, timeout_s)
