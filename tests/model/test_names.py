import hashlib

import pytest

from dmcore.model.enums import Role
from dmcore.model.ids import NodeId
from dmcore.model.names import NodeName, is_node_id, node_id_of

NODE = NodeId("ab" * 32)


def test_there_and_back() -> None:
    name = NodeName("eu-west-1", Role.APPLIANCE, NODE)
    assert name.uri == f"spiffe://dmcore/eu-west-1/appliance/{NODE}"
    assert NodeName.parse(name.uri) == name


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "spiffe://dmcore/",
        f"spiffe://other/paris/appliance/{NODE}",
        f"SPIFFE://dmcore/paris/appliance/{NODE}",
        f"xspiffe://dmcore/paris/appliance/{NODE}",
        f"spiffe://dmcore/paris/operator/{NODE}",
        f"spiffe://dmcore/paris/appliance/{NODE}/",
        f"spiffe://dmcore/paris/appliance/{NODE}?x",
        f"spiffe://dmcore/paris//{NODE}",
        f"spiffe://dmcore//appliance/{NODE}",
        f"spiffe://dmcore/Paris/appliance/{NODE}",
        f"spiffe://dmcore/par%69s/appliance/{NODE}",
        f"spiffe://dmcore/../appliance/{NODE}",
        "spiffe://dmcore/paris/appliance/abc",
        f"spiffe://dmcore/paris/appliance/{NODE.upper()}",
        f"spiffe://dmcore/paris/appliance/{NODE}\n",
    ],
)
def test_anything_else_is_no_name(uri: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        NodeName.parse(uri)


@pytest.mark.parametrize("site", ["", "-a", "a-", "a_b", "a.b", "A", "a/b", "é", "a" * 64, "a\n"])
def test_site_names(site: str) -> None:
    with pytest.raises(ValueError, match="site name"):
        NodeName(site, Role.CONNECTOR, NODE)


def test_ids() -> None:
    assert node_id_of(b"key") == hashlib.sha256(b"key").hexdigest()
    assert is_node_id(NODE)
    assert not is_node_id("../" + NODE[3:])
