"""Errors over HTTP: `application/problem+json`, one status for each class of domain error."""

import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from http import HTTPStatus
from typing import Any, Final

import structlog
from clickhouse_connect.driver.exceptions import OperationalError as ClickHouseAway
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from psycopg import errors as pg
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException

from api.wire import JSON, Problem, WireResponse, encode
from ingest.problems import request_id
from metering.domain.errors import (
    Conflict,
    Finding,
    Forbidden,
    InvalidInput,
    NotFound,
    PreconditionFailed,
    ProtocolViolation,
    TooLarge,
    Unauthorized,
    Unavailable,
    WeighbridgeError,
)
from metering.domain.measure import json_number

_log: Final = structlog.get_logger()

PROBLEM_JSON: Final = "application/problem+json"

# Each class of error: its status and how its detail begins.
STATUSES: Final[Mapping[type[WeighbridgeError], tuple[HTTPStatus, str]]] = {
    Conflict: (HTTPStatus.CONFLICT, "conflict error: "),
    Forbidden: (HTTPStatus.FORBIDDEN, "forbidden error: "),
    InvalidInput: (HTTPStatus.BAD_REQUEST, "validation error: "),
    NotFound: (HTTPStatus.NOT_FOUND, "not found error: "),
    Unauthorized: (HTTPStatus.UNAUTHORIZED, "unauthorized error: "),
    PreconditionFailed: (HTTPStatus.PRECONDITION_FAILED, "precondition failed error: "),
    TooLarge: (HTTPStatus.REQUEST_ENTITY_TOO_LARGE, ""),
    Unavailable: (HTTPStatus.SERVICE_UNAVAILABLE, ""),
    ProtocolViolation: (HTTPStatus.INTERNAL_SERVER_ERROR, ""),
}

# Details that clients know without a prefix.
_BARE: Final = re.compile(
    r"feature not found: |feature \S+ with key |meter \S+'s aggregation |entitlement not found |entitlement with id "
    r"|expected entitlement type |grant not found: |Feature key cannot be |invalid event: "
)


class ProblemResponse(WireResponse):
    """The answer to a refused request."""

    media_type = PROBLEM_JSON


def problem(
    status: HTTPStatus,
    headers: Mapping[bytes, bytes],
    detail: str = "",
    *,
    extensions: Mapping[str, Any] | None = None,
    fields: Mapping[str, str] | None = None,
) -> ProblemResponse:
    """A problem with the request's id as its instance. A detail is left out when empty, and always on 500."""
    body = Problem(
        type="about:blank",
        title=status.phrase,
        status=int(status),
        detail=detail if detail and status is not HTTPStatus.INTERNAL_SERVER_ERROR else None,
        instance=f"urn:request:{request_id(dict(headers))}",
        extensions=extensions or None,
    )
    return ProblemResponse(encode(body), int(status), headers=dict(fields) if fields else None)


def of_error(error: WeighbridgeError, headers: Mapping[bytes, bytes]) -> ProblemResponse:
    """What is answered to a domain error."""
    status, prefix = next(STATUSES[each] for each in type(error).__mro__ if each in STATUSES)
    extensions: dict[str, Any] = {}
    fields = None
    text = str(error)
    match error:
        case InvalidInput(findings=[_, *_] as findings):
            extensions["validationErrors"] = [_finding(each) for each in findings]
        case Conflict(conflicting_id=str(other)):
            extensions["conflictingEntityId"] = other
        case Unavailable(retry_after_seconds=seconds):
            fields = {"Retry-After": str(seconds)}
        case _:
            pass
    detail = text if not text or _BARE.match(text) else prefix + text
    return problem(status, headers, detail, extensions=extensions, fields=fields)


def of_validation(error: RequestValidationError, request: Request) -> ProblemResponse:
    """The first thing wrong with the request, in the words of a validation against the document."""
    headers = dict(request.headers.raw)
    return problem(HTTPStatus.BAD_REQUEST, headers, "\n".join(_detail(each, request) for each in error.errors()[:10]))


def of_database(error: DBAPIError, headers: Mapping[bytes, bytes]) -> ProblemResponse:
    """A unique constraint is a conflict; an engine that is away, or too busy, may be asked again."""
    original = error.orig
    if isinstance(original, pg.UniqueViolation):
        return of_error(Conflict("it exists already, or was made at the same moment"), headers)
    if isinstance(original, pg.DataError):  # such as a text with a NUL character, or a number beyond any column
        return of_error(
            InvalidInput("a value can't be stored: it has characters or digits that no field takes"), headers
        )
    busy = (pg.DeadlockDetected, pg.LockNotAvailable, pg.SerializationFailure, pg.QueryCanceled)
    if isinstance(original, busy) or isinstance(error, OperationalError | InterfaceError):
        _log.warning("postgres_unavailable", detail=str(original).strip())
        return of_error(Unavailable("the database is away or too busy"), headers)
    _log.error("request_failed", exc_info=error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, headers)


def install(app: FastAPI) -> None:
    """Have the application answer every error as a problem."""

    @app.exception_handler(WeighbridgeError)
    async def domain(request: Request, error: WeighbridgeError) -> ProblemResponse:
        if isinstance(error, ProtocolViolation):
            _log.error("protocol_violation", detail=str(error), path=request.url.path)
        return of_error(error, dict(request.headers.raw))

    @app.exception_handler(RequestValidationError)
    async def validation(request: Request, error: RequestValidationError) -> ProblemResponse:
        return of_validation(error, request)

    @app.exception_handler(DBAPIError)
    async def database(request: Request, error: DBAPIError) -> ProblemResponse:
        return of_database(error, dict(request.headers.raw))

    @app.exception_handler(ClickHouseAway)
    async def clickhouse(request: Request, error: ClickHouseAway) -> ProblemResponse:
        _log.warning("clickhouse_unavailable", detail=str(error))
        return of_error(Unavailable("ClickHouse is away or too busy"), dict(request.headers.raw))

    @app.exception_handler(PoolTimeoutError)
    async def pool(request: Request, _error: PoolTimeoutError) -> ProblemResponse:
        return of_error(Unavailable("too many requests wait for the database"), dict(request.headers.raw))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> ProblemResponse:
        if isinstance(error.__cause__, WeighbridgeError):  # FastAPI wraps what reading the body raises
            return of_error(error.__cause__, dict(request.headers.raw))
        status = HTTPStatus(error.status_code)
        detail = "" if error.detail == status.phrase else str(error.detail)
        return problem(status, dict(request.headers.raw), detail, fields=error.headers)

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> ProblemResponse:
        _log.error("request_failed", path=request.url.path, method=request.method, exc_info=error)
        return problem(HTTPStatus.INTERNAL_SERVER_ERROR, dict(request.headers.raw))


def _finding(finding: Finding) -> dict[str, Any]:
    known = {"field": finding.field, "code": finding.code, "message": finding.message, "severity": "critical"}
    return {**{k: _plain(v) for k, v in (finding.attributes or {}).items()}, **known}


def _plain(value: Any) -> Any:
    return json_number(value) if isinstance(value, Decimal) else value


def _detail(error: Mapping[str, Any], request: Request) -> str:
    where, *path = error["loc"]
    if where != "body":
        name = path[0] if path else where
        return f'parameter "{name}" in {where} has an error: {_message(error)}'
    start = "request body has an error: "
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != JSON:
        return f'{start}header Content-Type has unexpected value "{media_type}"'
    if error["type"] == "json_invalid":
        return f"{start}failed to decode request body: {error['ctx']['error']}"
    if error["type"] == "missing" and not path:
        return f"{start}value is required but missing"
    schema = f"doesn't match schema #/components/schemas/{_schema(request)}: "
    if error["type"] == "missing":
        return f'{start}{schema}Error at "{_pointer(path)}": property "{path[-1]}" is missing'
    return f'{start}{schema}Error at "{_pointer(path)}": {_message(error)}'


def _pointer(path: Sequence[str | int]) -> str:
    return "".join(f"/{part}" for part in path) or "/"


def _schema(request: Request) -> str:
    field = getattr(request.scope.get("route"), "body_field", None)
    annotation = getattr(getattr(field, "field_info", None), "annotation", None)
    return getattr(annotation, "__name__", "Body")


def _message(error: Mapping[str, Any]) -> str:
    message = str(error["msg"]).removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
