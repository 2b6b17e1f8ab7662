"""What a node's certificate calls it: `spiffe://dmcore/<site>/<role>/<node>`."""

import hashlib
import re
from dataclasses import dataclass
from typing import Self

from dmcore.model.enums import Role
from dmcore.model.ids import NodeId

TRUST_DOMAIN = "dmcore"
SITE_PATTERN = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$"
NODE_PATTERN = r"^[0-9a-f]{64}$"
_SITE = re.compile(SITE_PATTERN)
_NODE = re.compile(NODE_PATTERN)


def node_id_of(public_key_der: bytes) -> NodeId:
    """The id of the node that holds this public key (SubjectPublicKeyInfo, DER)."""
    return NodeId(hashlib.sha256(public_key_der).hexdigest())


def is_node_id(text: str) -> bool:
    """Whether this could be a node's id. Asked before such a text becomes part of a path."""
    return bool(_NODE.fullmatch(text))


@dataclass(frozen=True)
class NodeName:
    """Who a node is, where, and as what. Making one with a bad part is a ValueError."""

    site: str
    role: Role
    node: NodeId

    def __post_init__(self) -> None:
        if not _SITE.fullmatch(self.site):
            raise ValueError(f"site name {self.site!r}: only lower-case letters, digits and inner dashes, at most 63")
        if not is_node_id(self.node):
            raise ValueError(f"node id {self.node!r}: not 64 lower-case hex digits")

    @property
    def uri(self) -> str:
        """The name as a certificate carries it."""
        return f"spiffe://{TRUST_DOMAIN}/{self.site}/{self.role}/{self.node}"

    @classmethod
    def parse(cls, uri: str) -> Self:
        """The name that this URI is, to the letter; anything else is a ValueError."""
        head, _, path = uri.partition(f"spiffe://{TRUST_DOMAIN}/")
        parts = path.split("/")
        if head or len(parts) != 3:
            raise ValueError(f"{uri!r} is not spiffe://{TRUST_DOMAIN}/<site>/<role>/<node>")
        return cls(parts[0], Role(parts[1]), NodeId(parts[2]))
