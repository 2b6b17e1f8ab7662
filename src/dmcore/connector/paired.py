"""Which appliances may connect. Read from disk at every handshake, so unpairing is immediate."""

from datetime import datetime
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from dmcore.api.labels import NodeIdText, Site
from dmcore.connector.trust_errors import Unpaired
from dmcore.host.files import fsync_dir, make_dir, read_state, replace_file
from dmcore.model.ids import NodeId
from dmcore.model.names import is_node_id


class PairedNode(BaseModel):
    """One paired appliance."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    node: NodeIdText
    site: Site
    since: datetime


class PairedList:
    """One file for each paired appliance under `state_dir`. Safe for several processes at once."""

    def __init__(self, state_dir: Path) -> None:
        self._folder = make_dir(state_dir / "paired")

    def add(self, node: PairedNode) -> None:
        """Pair, durably."""
        replace_file(self._path(node.node), node.model_dump_json().encode())

    def is_paired(self, node: NodeId) -> bool:
        """Whether it is paired now."""
        return is_node_id(node) and self._path(node).exists()

    def require(self, node: NodeId) -> None:
        """Ask at every handshake.

        Raises:
            Unpaired: it is not paired now.
        """
        if not self.is_paired(node):
            raise Unpaired(node=node)

    def unpair(self, node: NodeId) -> None:
        """Let it connect no more. Connections that it has already are the server's to close.

        Raises:
            Unpaired: it was not paired.
        """
        self.require(node)
        self._path(node).unlink(missing_ok=True)
        fsync_dir(self._folder)

    def all(self) -> list[PairedNode]:
        """Every paired appliance, by id."""
        return [
            PairedNode.model_validate_json(read_state(path)) for path in sorted(self._folder.glob("[0-9a-f]*.json"))
        ]

    def _path(self, node: NodeId) -> Path:
        return self._folder / f"{node}.json"
