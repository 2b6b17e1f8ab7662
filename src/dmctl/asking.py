"""From a command line to a request: of the connector that runs on this machine, or of the control plane."""

from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError

from dmcore.connector.daemon import SOCKET_FILE
from dmcore.node.settings import load_connector

MAX_SHOWN = 80
"""Of what somebody typed, in a message."""

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
        if not first["loc"]:  # of several fields together
            raise click.UsageError(first["msg"]) from None
        place, said = ".".join(map(str, first["loc"])), repr(first["input"])
        cut = said if len(said) <= MAX_SHOWN else f"{said[:MAX_SHOWN]}…"
        raise click.UsageError(f"{place} {cut}: {first['msg']}") from None
