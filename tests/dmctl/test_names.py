from typing import Any

import pytest

from dmctl.errors import NameAmbiguous, NameUnknown
from dmctl.names import find_group, find_node, find_point

POINTS: list[dict[str, Any]] = [{"id": "aa11"}, {"id": "aa22"}, {"id": "bb33"}]


@pytest.mark.parametrize(
    ("name", "found"), [("aa1", "aa11"), ("AA1", "aa11"), ("bb33", "bb33"), ("b", "bb33"), ("latest", "bb33")]
)
def test_a_beginning_is_enough(name: str, found: str) -> None:
    assert find_point(POINTS, name)["id"] == found


@pytest.mark.parametrize("name", ["cc", "", "a1", "aa111"])
def test_nothing_begins_so(name: str) -> None:
    with pytest.raises(NameUnknown, match="`dmctl connector points` lists them"):
        find_point(POINTS, name)


def test_there_is_no_latest_of_none() -> None:
    with pytest.raises(NameUnknown, match="no point 'latest'"):
        find_point([], "latest")


def test_several_begin_so() -> None:
    with pytest.raises(NameAmbiguous, match="2 points begin with 'aa': aa11, aa22; type more of the id"):
        find_point(POINTS, "aa")


def test_groups_and_nodes_alike() -> None:
    assert find_group([{"group": "aa", "problem": "broken"}], "a")["problem"] == "broken"
    assert find_node([{"node": "ff"}], "f") == {"node": "ff"}
    with pytest.raises(NameUnknown, match="`dmctl connector paired` lists them"):
        find_node([], "f")
