"""Errors as messages, and back."""

from dmcore.errors import DmcoreError, ExitCode
from dmcore.wire.errors import PeerRefused
from dmcore.wire.fields import MAX_ERROR_CHARS
from dmcore.wire.messages import ErrorMessage


def error_message(error: DmcoreError) -> ErrorMessage:
    """What the peer is told about an error: text without control characters, cut to its limit."""
    text = "".join(char if char.isprintable() else " " for char in str(error))
    return ErrorMessage(
        code=error.code,
        message=text[:MAX_ERROR_CHARS],
        correlation=error.correlation,
        permanent=error.permanent,
        exit_code=int(error.exit_code),
    )


def refusal(peer: str, message: ErrorMessage) -> PeerRefused:
    """The error that a peer's message stands for. An exit code unknown to this version becomes REFUSED."""
    known = message.exit_code in set(ExitCode)
    return PeerRefused(
        peer=peer,
        message=message.message,
        peer_code=message.code,
        peer_exit_code=ExitCode(message.exit_code) if known else ExitCode.REFUSED,
        peer_permanent=message.permanent,
        correlation=message.correlation,
    )
