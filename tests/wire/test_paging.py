import numpy as np
import pytest

from dmcore.blocks import extents as ex
from dmcore.blocks.grid import Grid
from dmcore.wire.errors import ProtocolError
from dmcore.wire.paging import PAGE_EXTENTS, join, most_pages, page_count, pages

GRID = Grid(1 << 40, 4096)


def every_other(count: int) -> ex.Extents:
    offsets = np.arange(count, dtype=np.int64) * 8192
    return np.column_stack([offsets, np.full(count, 4096, dtype=np.int64)])


@pytest.mark.parametrize("count", [0, 1, PAGE_EXTENTS, PAGE_EXTENTS + 1, 3 * PAGE_EXTENTS])
def test_extents_come_back_from_their_pages(count: int) -> None:
    extents = every_other(count)
    payloads = list(pages(extents))
    assert len(payloads) == page_count(extents) <= most_pages(GRID)
    assert np.array_equal(join(payloads, GRID), extents)


def test_the_most_pages_follow_the_grid() -> None:
    assert most_pages(Grid(4096, 4096)) == 1
    assert most_pages(Grid(2 * PAGE_EXTENTS * 4096, 4096)) == 1
    assert most_pages(Grid((2 * PAGE_EXTENTS + 1) * 4096, 4096)) == 2


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([(0, 4096), (4096, 4096)], id="not merged"),
        pytest.param([(8192, 4096), (0, 4096)], id="not sorted"),
        pytest.param([(0, 4096), (0, 4096)], id="twice"),
        pytest.param([(0, 4095)], id="off the grid"),
        pytest.param([(0, 0)], id="empty"),
        pytest.param([(-4096, 4096)], id="negative"),
        pytest.param([(4096, -4096)], id="negative length"),
        pytest.param([((1 << 63) - 4096, 4096)], id="overflow"),
        pytest.param([(1 << 40, 4096)], id="past the end"),
    ],
)
def test_extents_that_are_not_tidy_are_refused(pairs: list[tuple[int, int]]) -> None:
    with pytest.raises(ProtocolError):
        join([ex.to_bytes(np.array(pairs, dtype=np.int64))], GRID)
