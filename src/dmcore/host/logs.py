"""Structured logs to standard error: ids bound, key material dropped whatever a caller passes."""

import logging
import re
import sys
from collections.abc import Mapping
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from dmcore.host.settings import LogFormat, LogSettings

REDACTED = "[redacted]"
SECRET_NAME = re.compile(
    r"(^|[_-])(key|keys|kek|dek|deks|secret|secrets|token|tokens|ticket|tickets|password|pem)($|[_-])"
)


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Set up logging for the whole process; call once, at the start."""
    structlog.configure(
        processors=[*_common(), *_rendering(settings.format)],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Drop the values of all names that mean key material, at any depth, and all raw bytes."""
    return {name: _clean(name, value) for name, value in event.items()}


def _clean(name: str, value: object) -> object:
    if isinstance(value, bytes | bytearray | memoryview):
        return REDACTED
    if SECRET_NAME.search(name.lower()) and not isinstance(value, int):  # dek_version=3 tells nothing
        return REDACTED
    if isinstance(value, Mapping):
        return {key: _clean(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(name, item) for item in value]
    return value


def _common() -> list[Processor]:
    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        redact,
    ]


def _rendering(form: LogFormat) -> list[Processor]:
    if form is LogFormat.JSON:
        return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    # Not the default formatter: it shows local variables, and keys among them.
    return [structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback)]
