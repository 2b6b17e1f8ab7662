"""What every message to and from the control plane has in common."""

from datetime import UTC, datetime
from typing import Annotated

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

API_VERSION = "1.0"
"""Sent as `Dmcore-Api` with every request; one older minor version is served."""
VERSION_HEADER = "Dmcore-Api"
MAX_BODY_BYTES = 256 << 10

Moment = Annotated[AwareDatetime, Field(ge=datetime(1970, 1, 1, tzinfo=UTC), lt=datetime(9000, 1, 1, tzinfo=UTC))]
"""With room on both sides: whatever is added or subtracted, and in whatever zone, it stays a time."""
Seconds = Annotated[int, Field(strict=True, ge=0, lt=1 << 36)]
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 53)]
"""A total or a number of things, exact in JSON everywhere."""
Duration = Annotated[float, Field(ge=0, lt=1 << 36, allow_inf_nan=False)]
"""Seconds, with fractions."""
ErrorCode = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9-]*(\.[a-z0-9-]+)*$", max_length=64)]
Correlation = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{32}$")]


class Message(BaseModel):
    """Base of all of them: only what is named here may cross."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ErrorBody(Message):
    """The body of every answer that is not 2xx."""

    code: ErrorCode
    message: str
    correlation: Correlation


class Problem(Message):
    """An error as it may cross: what it says stays in the node's log, under the correlation id."""

    code: ErrorCode
    permanent: bool
    correlation: Correlation
