"""Parameters that several routes have."""

from typing import Annotated

from fastapi import Path, Query

from dmcore.api.labels import NodeIdText, Site

Limit = Annotated[int, Query(ge=1, le=500, description="At most so many.")]
Number = Annotated[int | None, Query(ge=1, lt=1 << 53, description="Only those with a smaller number.")]
NodePath = Annotated[NodeIdText, Path(description="The node's id: 64 hex digits.")]
NodeQuery = Annotated[NodeIdText | None, Query(description="A node's id: 64 hex digits.")]
SitePath = Annotated[Site, Path(description="The site's name.")]
