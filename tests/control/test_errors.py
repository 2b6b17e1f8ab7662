"""What each refusal is on the wire. Nodes and scripts branch on the status and the code."""

import pytest

from dmcore.api.base import ErrorBody
from dmcore.control import errors, serving_errors
from dmcore.control.errors import (
    AliasAmbiguous,
    AliasNowhere,
    ClockSkewed,
    JoinRefused,
    LeaseLost,
    MachineProtected,
    NameTaken,
    NodeRevoked,
    NodeSuperseded,
    NotAuthenticated,
    NotFound,
    RequestInvalid,
    RoleMissing,
    SignatureRefused,
    StateConflict,
    StoreBusy,
    StoreFull,
    StoreInUse,
    StoreNewer,
    StoreOutdated,
    StoreRefused,
    VersionRefused,
)
from dmcore.control.serving_errors import (
    AlreadyInitialised,
    CannotListen,
    ControlFault,
    DriverMissing,
    MethodRefused,
    NotInitialised,
    RequestFlood,
    RequestSlow,
    RequestTooLarge,
    RequestUnreadable,
    RouteUnknown,
    ServerStopped,
)
from dmcore.control.web.gate import error_answer
from dmcore.errors import DmcoreError

STATUSES: dict[int, set[type[DmcoreError]]] = {
    400: {RequestUnreadable},
    401: {NotAuthenticated, ClockSkewed, SignatureRefused, NodeRevoked},
    403: {JoinRefused, RoleMissing},
    404: {NotFound, RouteUnknown},
    405: {MethodRefused},
    409: {
        AliasAmbiguous, AliasNowhere, AlreadyInitialised, LeaseLost, MachineProtected, NameTaken, NodeSuperseded,
        StateConflict,
    },
    408: {RequestSlow},
    413: {RequestTooLarge},
    422: {RequestInvalid},
    426: {VersionRefused},
    429: {RequestFlood},
    500: {ControlFault},
    503: {
        CannotListen, DriverMissing, NotInitialised, ServerStopped, StoreBusy, StoreInUse, StoreNewer, StoreOutdated,
        StoreRefused,
    },
    507: {StoreFull},
}  # fmt: skip


def test_every_refusal_has_a_status() -> None:
    found = {
        kind for module in (errors, serving_errors) for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, DmcoreError) and kind.__module__ == module.__name__
    }  # fmt: skip
    assert found == {kind for kinds in STATUSES.values() for kind in kinds}
    assert {kind: kind.status for kind in found} == {kind: at for at, kinds in STATUSES.items() for kind in kinds}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "header"),
    [
        (StoreBusy(), ("retry-after", "2")),
        (RequestFlood(node="n", count=1, seconds=1), ("retry-after", "2")),
        (NotAuthenticated(), ("www-authenticate", "Bearer")),
    ],
)
def test_an_answer_says_what_to_do(error: DmcoreError, header: tuple[str, str]) -> None:
    answer = error_answer(error)
    assert header in answer.headers.items()
    body = ErrorBody.model_validate_json(bytes(answer.body))
    assert (body.code, body.message) == (error.code, str(error))
