"""A job: one due cycle of one group, as its appliance gets it. All of it is names, ids and enums."""

from enum import StrEnum
from typing import Annotated
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from dmcore.api.labels import Alias, Epoch, Label, NodeIdText
from dmcore.model.enums import Rung
from dmcore.model.ids import CycleId, GroupId, PlanId

MAX_MACHINES = 256


class Codec(StrEnum):
    """How a plan wants its disks compressed."""

    RAW = "raw"
    LZ4 = "lz4"
    ZSTD = "zstd"


class Job(BaseModel):
    """What to replicate under which lease. The ticket is for the connector, the rest for the appliance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: UUID
    ticket: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,4096}$")] = Field(repr=False)
    plan: PlanId
    group: GroupId
    cycle: CycleId
    epoch: Epoch
    connector: NodeIdText
    machines: Annotated[tuple[Label, ...], Field(min_length=1, max_length=MAX_MACHINES)]
    source: Alias
    target: Alias
    codec: Codec | None = None
    """None: the appliance's own default."""
    resync: Rung | None = None
    """An operator's wish for a costlier rung than the disks need; None: the cheapest that is safe."""
