"""The web application: routes, and what becomes of every error. Started by `server`; tests call it directly."""

from collections.abc import Sequence
from typing import Any, cast

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, Response
from starlette.exceptions import HTTPException

from dmcore.api.base import API_VERSION
from dmcore.control.errors import RequestInvalid
from dmcore.control.plane import Plane
from dmcore.control.serving_errors import MethodRefused, RequestUnreadable, RouteUnknown
from dmcore.control.web import docs_page
from dmcore.control.web.gate import Gate, error_answer
from dmcore.control.web.routes import (
    connectors,
    health,
    jobs,
    joins,
    node_work,
    nodes,
    overview,
    plans,
    points,
    polling,
    sites,
    tokens,
)
from dmcore.errors import DmcoreError

MAX_PLACE_CHARACTERS = 80
DESCRIPTION = (
    "The control plane's HTTP API. Operators send a token, nodes sign each request. Every answer that is not 2xx has"
    " a code, a message and the correlation id of the log."
)
ROUTERS = (
    health, sites, joins, nodes, tokens, plans, jobs, points, connectors, overview, node_work,
)  # fmt: skip


def create_app(plane: Plane) -> FastAPI:
    """The application of this control plane. It starts and stops nothing."""
    app = FastAPI(
        title="dmcore control plane", version=API_VERSION, description=DESCRIPTION, docs_url=None, redoc_url=None,
        redirect_slashes=False,
    )  # fmt: skip
    app.state.plane = plane
    app.add_middleware(Gate, clock=plane.clock)
    app.add_exception_handler(DmcoreError, _on_refusal)
    app.add_exception_handler(RequestValidationError, _on_invalid)
    app.add_exception_handler(HTTPException, _on_framework)
    for router in (polling.router, node_work.often):  # the first ones are found soonest
        app.include_router(router)
    for module in ROUTERS:
        app.include_router(module.router)
    app.add_api_route("/docs", _docs, include_in_schema=False)
    return app


def problem_of(errors: Sequence[Any]) -> str:
    """What is wrong with a request: the place and the rule, never the value."""
    first = errors[0]
    place = ".".join(_plain(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":  # its name is a value, too
        place, said = ".".join(_plain(part) for part in first["loc"][:-1]), "a field that this API does not have"
    elif first["type"] == "json_invalid":
        place, said = "body", "not JSON"
    else:
        said = first["msg"] if first["type"] != "value_error" else str(first["ctx"]["error"])
    return f"{place}: {said}"


def _plain(part: object) -> str:
    """One step of a place. Names are the models'; keys of a map are the sender's."""
    text = str(part)
    known = isinstance(part, int) or (len(text) <= MAX_PLACE_CHARACTERS and text.replace("_", "").isalnum())
    return text if known and text.isascii() else "?"


def _on_refusal(_: Request, error: Exception) -> Response:
    return error_answer(cast("DmcoreError", error))


def _on_invalid(_: Request, error: Exception) -> Response:
    return error_answer(RequestInvalid(problem=problem_of(cast("RequestValidationError", error).errors())))


def _on_framework(_: Request, error: Exception) -> Response:
    """No such route or method, or a body that could not even be read."""
    refused = cast("HTTPException", error)
    known = {404: RouteUnknown(), 405: MethodRefused()}
    return error_answer(known.get(refused.status_code, RequestUnreadable()), refused.headers)


def _docs() -> HTMLResponse:
    return HTMLResponse(docs_page.PAGE, headers={"Content-Security-Policy": docs_page.POLICY})
