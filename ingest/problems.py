"""Answers of the ingest endpoint that are not 204: `application/problem+json`, in the one shape of the API."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

from ingest.cloudevent import Shape
from ingest.scrutiny import Refusal, Stage
from metering.domain.errors import Finding
from metering.domain.ids import new_id

_REQUEST_ID: Final = re.compile(rb"[A-Za-z0-9._:-]{1,64}")
_ESCAPES: Final = str.maketrans(
    {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}
)
_SCHEMAS: Final = {Shape.ONE: "Event", Shape.MANY: "Event", Shape.EITHER: "IngestEventsBody"}


@dataclass(frozen=True, slots=True)
class Problem:
    """A refusal as HTTP says it. `reason` is for metrics; it has few values."""

    status: HTTPStatus
    detail: str
    reason: str
    findings: Sequence[Finding] = ()
    retry_after_seconds: int | None = None

    def body(self, request_id: str) -> bytes:
        """The JSON text with its trailing newline."""
        problem: dict[str, object] = {
            "type": "about:blank",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
            "instance": f"urn:request:{request_id}",
        }
        if self.findings:
            problem["extensions"] = {"validationErrors": [_error(finding) for finding in self.findings]}
        return json.dumps(problem, ensure_ascii=False).translate(_ESCAPES).encode("utf-8", "replace") + b"\n"


def _error(finding: Finding) -> dict[str, object]:
    known = {"field": finding.field, "code": finding.code, "message": finding.message, "severity": "critical"}
    return {**(finding.attributes or {}), **known}


def request_id(headers: dict[bytes, bytes]) -> str:
    """The client's `x-request-id` where it is one, else a new id."""
    given = headers.get(b"x-request-id", b"")
    return given.decode() if _REQUEST_ID.fullmatch(given) else new_id()


def of_refusal(refusal: Refusal, shape: Shape) -> Problem:
    """What is answered to a body that was not accepted."""
    match refusal.stage:
        case Stage.TOO_MANY:
            return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, refusal.detail, "batch_too_large")
        case Stage.EMPTY:
            return Problem(HTTPStatus.BAD_REQUEST, f"invalid event: {refusal.detail}", "empty_batch")
        case Stage.BODY:
            detail = f"request body has an error: {refusal.detail}"
            return Problem(HTTPStatus.BAD_REQUEST, detail, "not_json")
        case Stage.SCHEMA:
            place = f'Error at "{refusal.pointer}": {refusal.detail}' if refusal.pointer else refusal.detail
            if shape is Shape.EITHER:
                place = f'doesn\'t match any schema from "anyOf": {place}'
            detail = f"request body has an error: doesn't match schema #/components/schemas/{_SCHEMAS[shape]}: {place}"
        case Stage.CLOUDEVENT:
            prefix = "invalid event: no events found: " if shape is Shape.EITHER else "invalid event: "
            detail = prefix + refusal.detail
    reason = refusal.findings[0].code if refusal.findings else "shape"
    return Problem(HTTPStatus.BAD_REQUEST, detail, reason, refusal.findings)
