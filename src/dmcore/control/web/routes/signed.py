"""The routes that nodes ask all the time: the signature, the message and the answer without a thread for each step."""

from collections.abc import Callable, Coroutine
from inspect import iscoroutinefunction
from typing import Any, get_type_hints

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic import BaseModel, TypeAdapter, ValidationError
from starlette.concurrency import run_in_threadpool

from dmcore.control.access.signatures import SignedRequest, claimed_sender
from dmcore.control.errors import ClockSkewed
from dmcore.control.plane import Plane
from dmcore.control.web.routes import access
from dmcore.model.ids import NodeId

JSON = "application/json"


class SignedRoute(APIRoute):
    """A route for one function of what a node's request consists of.

    It takes `plane`, `node` (who signed), the path's parameters, `request` (the body's message) and, as a coroutine,
    `http`. FastAPI documents it by these.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """In the place of FastAPI's own, which takes a turn of a thread for each dependency."""
        endpoint, hints = self.endpoint, get_type_hints(self.endpoint, include_extras=True)
        path = {name: TypeAdapter(hints[name]) for name in self.param_convertors}
        model: type[BaseModel] = hints["request"]
        is_async = iscoroutinefunction(endpoint)

        async def handle(http: Request) -> Response:
            plane = access.plane_of(http)
            signed = await access.signed_request(http, http.headers.get("authorization"))
            given = {"plane": plane, "node": await _sender(plane, signed)}
            given |= {name: _checked(("path", name), adapter.validate_python, http.path_params[name])
                      for name, adapter in path.items()}  # fmt: skip
            given["request"] = _message(http, model, signed.body)
            reply = await (endpoint(http=http, **given) if is_async else run_in_threadpool(endpoint, **given))
            return Response(status_code=204) if reply is None else Response(reply.model_dump_json(), media_type=JSON)

        return handle


async def _sender(plane: Plane, signed: SignedRequest) -> NodeId:
    """As `access.sender`, which waits for nothing once it knows the key."""
    node = claimed_sender(signed)
    if node not in plane.keys:
        await run_in_threadpool(access.look_up, plane, node)
    try:
        access.require_signed(plane, signed, node)
    except ClockSkewed as skewed:
        await run_in_threadpool(access.note_skew, plane, node, skewed.skew_s)
        raise
    return node


def _message(http: Request, model: type[BaseModel], body: bytes) -> BaseModel:
    """Raises RequestValidationError: it is not this message, in JSON."""
    if http.headers.get("content-type", "").partition(";")[0].strip().lower() != JSON:
        raise RequestValidationError([{"type": "json_invalid", "loc": ("body",), "msg": f"not {JSON}", "input": None}])
    message: BaseModel = _checked(("body",), model.model_validate_json, body)
    return message


def _checked(place: tuple[str, ...], check: Callable[[Any], Any], given: object) -> Any:
    """Raises RequestValidationError, as FastAPI does."""
    try:
        return check(given)
    except ValidationError as refused:
        found = [{**error, "loc": (*place, *error["loc"])} for error in refused.errors(include_url=False)]
        raise RequestValidationError(found) from refused
