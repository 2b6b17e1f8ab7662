"""From a command line to a request of the connector that runs on this machine."""

from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError

from dmcore.connector.daemon import SOCKET_FILE
from dmcore.node.settings import load_connector

AnyRequest = TypeVar("AnyRequest", bound=BaseModel)


def socket_of(config: Path) -> Path:
    """Where the connector of this configuration answers its operator. Raises SettingsRefused."""
    return load_connector(config).state_dir / SOCKET_FILE


def request_of(kind: type[AnyRequest], **typed: Any) -> AnyRequest:
    """A request made of what the operator typed, or a usage error."""
    try:
        return kind(**typed)
    except ValidationError as refused:
        first = refused.errors(include_url=False)[0]
        raise click.UsageError(f"{first['loc'][0]} {first['input']!r}: {first['msg']}") from None
