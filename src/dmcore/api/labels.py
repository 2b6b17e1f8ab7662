"""The only strings beside enums that may reach the control plane: ids, aliases and operators' labels."""

from typing import Annotated

from pydantic import Field, StringConstraints

from dmcore.model.ids import NodeId
from dmcore.model.names import NODE_PATTERN, SITE_PATTERN

Label = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:@+-]{0,127}$")]
"""A name for people: no path separators, no control characters."""
Alias = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]
"""A node's own name for a source, target, script or reader."""
Site = Annotated[str, StringConstraints(pattern=SITE_PATTERN)]
NodeIdText = Annotated[NodeId, StringConstraints(pattern=NODE_PATTERN)]
Epoch = Annotated[int, Field(strict=True, ge=1, lt=1 << 63)]
"""The number of a group's lease. 0 means none yet, so no lease has it."""
