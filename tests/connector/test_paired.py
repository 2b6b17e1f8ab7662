from datetime import UTC, datetime
from pathlib import Path

import pytest

from dmcore.connector.paired import PairedList, PairedNode
from dmcore.connector.trust_errors import Unpaired
from dmcore.model.ids import NodeId

NODE = PairedNode(node=NodeId("ab" * 32), site="paris", since=datetime(2026, 1, 1, tzinfo=UTC))


def test_added_listed_removed(tmp_path: Path) -> None:
    paired, other_process = PairedList(tmp_path), PairedList(tmp_path)
    assert not paired.is_paired(NODE.node)
    paired.add(NODE)
    assert other_process.is_paired(NODE.node)
    assert other_process.all() == [NODE]
    other_process.unpair(NODE.node)
    assert not paired.is_paired(NODE.node)
    assert paired.all() == []


def test_unpaired_nodes_are_named(tmp_path: Path) -> None:
    for ask in (PairedList(tmp_path).require, PairedList(tmp_path).unpair):
        with pytest.raises(Unpaired, match=NODE.node) as refused:
            ask(NODE.node)
        assert refused.value.code == "tls.unpaired"


def test_an_id_is_never_a_path(tmp_path: Path) -> None:
    (tmp_path / "x.json").touch()
    assert not PairedList(tmp_path).is_paired(NodeId("../x"))
