import pytest

from dmcore.connector.errors import PointBusy
from dmcore.connector.uses import PointUses
from tests.connector.points import a_point

ONE, OTHER = a_point(1).id, a_point(2).id


def refused(uses: PointUses) -> None:
    with pytest.raises(PointBusy), uses.removing(ONE):
        raise AssertionError


def test_nobody_removes_what_is_read() -> None:
    uses = PointUses()
    with uses.reading(ONE):
        with uses.reading(ONE):
            refused(uses)
        refused(uses)
        with uses.removing(OTHER):
            pass
    with uses.removing(ONE):
        pass
    assert not uses._read


def test_nobody_reads_what_is_removed() -> None:
    uses = PointUses()
    with uses.removing(ONE):
        refused(uses)
        with pytest.raises(PointBusy, match="is being removed") as busy, uses.reading(ONE):
            raise AssertionError
    assert (busy.value.code, busy.value.permanent) == ("point.busy", False)
    with uses.reading(ONE):
        pass


def test_an_error_frees_it() -> None:
    uses = PointUses()
    for use in (uses.reading, uses.removing):
        with pytest.raises(ZeroDivisionError), use(ONE):
            raise ZeroDivisionError
    with uses.removing(ONE):
        pass
