"""The connector's end of operator.py: a Unix socket that only its owner may connect to (mode 0600)."""

import contextlib
import json
import socket
from pathlib import Path
from typing import Any
from uuid import uuid4

import structlog
from pydantic import ValidationError

from dmcore.connector.errors import ConnectorFault, OperationAbandoned, OperationMalformed
from dmcore.connector.listener import Listener, unix_listening
from dmcore.connector.operations import Operations
from dmcore.connector.operator import REQUEST
from dmcore.errors import DmcoreError
from dmcore.targets.errors import TargetIOFailed

MAX_AT_ONCE = 16
MAX_LINE_BYTES = 64 << 10
TIMEOUT_S = 10.0
"""How long an operator's program may take to ask, and to read what it is told."""
PROGRESS_STEP_BYTES = 16 << 20

log = structlog.get_logger()


class OperatorSocket:
    """Answers operators. Its threads are gone, and what they were at is abandoned, when `stop` returns."""

    def __init__(self, path: Path, operations: Operations) -> None:
        """Take the path over: the caller holds the state directory's lock, so nobody lives behind an old socket.

        Raises:
            ListenFailed: it cannot be had.
        """
        self._path, self.operations = path, operations
        self._listener = Listener("operator", unix_listening(path), self._serve, MAX_AT_ONCE)

    def start(self) -> None:
        """Answer from now on."""
        self._listener.start()

    def stop(self) -> None:
        """Cut who is connected: what is being done for them ends at its next step. Idempotent."""
        self._listener.stop()
        self._path.unlink(missing_ok=True)

    def _serve(self, sock: socket.socket) -> None:
        sock.settimeout(TIMEOUT_S)
        with sock:
            operator = _Operator(sock)
            error = self._answer(operator)
            if error is not None:
                error.correlation = error.correlation or uuid4().hex
                log.warning("request failed", code=error.code, problem=str(error), correlation=error.correlation)
                with contextlib.suppress(OperationAbandoned):  # nobody is there to be told
                    operator.tell({"error": error_fields(error)})

    def _answer(self, operator: "_Operator") -> DmcoreError | None:
        """Do what the operator asks. Returns what went wrong, ready to be told."""
        try:
            operator.tell({"result": self._perform(operator)})
        except DmcoreError as error:
            return error
        except OSError as error:
            where, problem = str(error.filename or "connector"), error.strerror or str(error)
            return TargetIOFailed(path=where, operation="serve", offset=0, problem=problem)
        except Exception as error:
            fault = ConnectorFault(problem=type(error).__name__, correlation=uuid4().hex)
            log.exception("request failed", correlation=fault.correlation)
            return fault
        return None

    def _perform(self, operator: "_Operator") -> Any:
        try:
            request = REQUEST.validate_json(operator.line())
        except ValidationError as refused:
            first = refused.errors(include_url=False, include_input=False)[0]
            where = ".".join(map(str, first["loc"])) or "line"
            raise OperationMalformed(problem=f"{where}: {first['msg']}") from refused
        return request.perform(self.operations, operator.progress)


class _Operator:
    """Who is at the other end. Every method raises OperationAbandoned once nobody is."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock, self._done, self._told = sock, 0, 0

    def line(self) -> bytes:
        """The request."""
        try:
            with self._sock.makefile("rb") as lines:
                asked = lines.readline(MAX_LINE_BYTES)
        except OSError as problem:
            raise OperationAbandoned(problem=f"none came: {problem}") from problem
        if not asked:
            raise OperationAbandoned(problem="none came")
        return asked

    def tell(self, answer: dict[str, Any]) -> None:
        """Send a line."""
        try:
            self._sock.sendall(json.dumps(answer).encode() + b"\n")
        except OSError as problem:  # Ctrl-C at the other end, or a stop at this one
            raise OperationAbandoned(problem=problem.strerror or str(problem)) from problem

    def progress(self, count: int) -> None:
        """Tell of it in steps worth a line."""
        self._done += count
        if self._done - self._told >= PROGRESS_STEP_BYTES:
            self._told = self._done
            self.tell({"progress": {"done_bytes": self._done}})


def error_fields(error: DmcoreError) -> dict[str, Any]:
    """An error as its answer."""
    return {
        "code": error.code,
        "message": str(error),
        "exit_code": int(error.exit_code),
        "permanent": error.permanent,
        "correlation": error.correlation,
    }
