"""What an operator may ask of the connector that runs on this machine, and asking it (`dmctl connector`).

One request a connection to its local Unix socket (operator_socket.py), JSON lines:

    C: {"command": "recover", "point": "...", "folder": "/..."}
    S: {"progress": {"done_bytes": 4194304}}         any number of these, then one of
    S: {"result": ...}     S: {"error": {"code", "message", "exit_code", "permanent", "correlation"}}
"""

import json
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from dmcore.api.labels import Alias, Label, NodeIdText, Site
from dmcore.connector.errors import ConnectorNotRunning, OperationRefused
from dmcore.connector.operations import Operations
from dmcore.connector.recovery import Progress
from dmcore.model.ids import GroupId, PlanId, PointId


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PointsRequest(_Request):
    """List the points."""

    command: Literal["points"] = "points"

    def perform(self, operations: Operations, _: Progress) -> Any:
        """The points."""
        return operations.points()


class StatusRequest(_Request):
    """Show every group."""

    command: Literal["status"] = "status"

    def perform(self, operations: Operations, _: Progress) -> Any:
        """The groups."""
        return operations.status()


class PairTokenRequest(_Request):
    """Make a pairing token."""

    command: Literal["pair-token"] = "pair-token"
    site: Site

    def perform(self, operations: Operations, _: Progress) -> Any:
        """The token."""
        return operations.pair_token(self.site)


class PairedRequest(_Request):
    """List the paired appliances."""

    command: Literal["paired"] = "paired"

    def perform(self, operations: Operations, _: Progress) -> Any:
        """The appliances."""
        return operations.paired()


class UnpairRequest(_Request):
    """Let an appliance connect no more, and cut it."""

    command: Literal["unpair"] = "unpair"
    node: NodeIdText

    def perform(self, operations: Operations, _: Progress) -> Any:
        """How many connections were cut."""
        return operations.unpair(self.node)


class RebindRequest(_Request):
    """Bind a plan to another site or source, or one of its groups to other machines."""

    command: Literal["rebind"] = "rebind"
    plan: PlanId
    group: GroupId
    site: Site
    machines: tuple[Label, ...]
    source: Alias | None = None

    def perform(self, operations: Operations, _: Progress) -> Any:
        """What the plan is bound to now."""
        return operations.rebind(self.plan, self.group, self.site, self.machines, self.source)


class DropRequest(_Request):
    """Give up a receiving cycle; with `lost`, what cannot be read of one that rolls forward, too."""

    command: Literal["drop"] = "drop"
    group: GroupId
    lost: bool = False

    def perform(self, operations: Operations, _: Progress) -> Any:
        """The group."""
        return operations.drop(self.group, lost=self.lost)


class VerifyRequest(_Request):
    """Check a point."""

    command: Literal["verify"] = "verify"
    point: PointId

    def perform(self, operations: Operations, progress: Progress) -> Any:
        """What was checked."""
        return operations.verify(self.point, progress)


class RecoverRequest(_Request):
    """Give a point back."""

    command: Literal["recover"] = "recover"
    point: PointId
    folder: Path

    def perform(self, operations: Operations, progress: Progress) -> Any:
        """Where its disks are."""
        return operations.recover(self.point, self.folder, progress)


class LeftoversRequest(_Request):
    """What is beside the groups; with `remove`, what may go of it goes."""

    command: Literal["leftovers"] = "leftovers"
    remove: bool = False

    def perform(self, operations: Operations, _: Progress) -> Any:
        """What was found."""
        return operations.leftovers(remove=self.remove)


class PreserveRequest(_Request):
    """Keep a point whatever its age, or no longer."""

    command: Literal["preserve"] = "preserve"
    point: PointId
    preserved: bool = True

    def perform(self, operations: Operations, _: Progress) -> Any:
        """Whether it is preserved now."""
        return operations.preserve(self.point, preserved=self.preserved)


class ExpireRequest(_Request):
    """Remove a point, if the connector's own rules let it go."""

    command: Literal["expire"] = "expire"
    point: PointId

    def perform(self, operations: Operations, _: Progress) -> Any:
        """The point that is gone."""
        return operations.expire(self.point)


Request = (
    PointsRequest | StatusRequest | PairTokenRequest | PairedRequest | UnpairRequest | RebindRequest
    | DropRequest | VerifyRequest | RecoverRequest | PreserveRequest | ExpireRequest | LeftoversRequest
)  # fmt: skip
REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="command")])


def ask(path: Path, request: Request, on_progress: Callable[[int], None] = lambda _: None) -> Any:
    """The client's side: one request, its result.

    Raises:
        ConnectorNotRunning: nobody answers there. OperationRefused: the connector's own error.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(path))
            client.sendall(request.model_dump_json().encode() + b"\n")
            with client.makefile("rb") as answers:
                return _result(answers, on_progress)
        except OSError as error:
            raise ConnectorNotRunning(path=str(path), problem=error.strerror or str(error)) from error


def _result(answers: Any, on_progress: Callable[[int], None]) -> Any:
    for line in answers:
        answer = json.loads(line)
        if "progress" in answer:
            on_progress(int(answer["progress"]["done_bytes"]))
        elif "error" in answer:
            raise OperationRefused.of(answer["error"])
        else:
            return answer["result"]
    raise ConnectionResetError("the connector closed the socket")
