"""Each domain error has its status, and a problem says no more than it should."""

import json
from decimal import Decimal

import pytest

from api.problems import STATUSES, of_error
from metering.domain import errors
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

HEADERS = {b"x-request-id": b"r-1"}


def body_of(error: WeighbridgeError) -> dict[str, object]:
    answer = of_error(error, HEADERS)
    body = json.loads(answer.body)
    assert answer.headers["content-type"] == "application/problem+json"
    assert body["type"] == "about:blank"
    assert body["status"] == answer.status_code
    assert body["instance"] == "urn:request:r-1"
    return body


def test_no_class_of_domain_error_is_without_a_status() -> None:
    classes = {
        each
        for each in vars(errors).values()
        if isinstance(each, type) and issubclass(each, WeighbridgeError) and each is not WeighbridgeError
    }
    assert classes == set(STATUSES)


@pytest.mark.parametrize(
    ("error", "status", "title", "detail"),
    [
        (InvalidInput("x"), 400, "Bad Request", "validation error: x"),
        (Unauthorized("x"), 401, "Unauthorized", "unauthorized error: x"),
        (Forbidden("x"), 403, "Forbidden", "forbidden error: x"),
        (NotFound("meter not found: a"), 404, "Not Found", "not found error: meter not found: a"),
        (Conflict("x"), 409, "Conflict", "conflict error: x"),
        (PreconditionFailed("x"), 412, "Precondition Failed", "precondition failed error: x"),
        (TooLarge("x"), 413, "Request Entity Too Large", "x"),
        (Unavailable("x"), 503, "Service Unavailable", "x"),
        (NotFound("feature not found: a"), 404, "Not Found", "feature not found: a"),
        (
            NotFound("entitlement not found a in namespace d"),
            404,
            "Not Found",
            "entitlement not found a in namespace d",
        ),
    ],
)
def test_error_becomes_a_problem(error: WeighbridgeError, status: int, title: str, detail: str) -> None:
    body = body_of(error)
    assert (body["status"], body["title"], body["detail"]) == (status, title, detail)
    assert "extensions" not in body


def test_internal_errors_tell_nothing() -> None:
    body = body_of(ProtocolViolation("digest differs"))
    assert body["status"] == 500
    assert "detail" not in body


def test_findings_and_the_conflicting_object_are_extensions() -> None:
    finding = Finding(
        "$.amount", "grant_amount_must_be_positive", "amount must be positive", {"amount": Decimal("0.0")}
    )
    body = body_of(InvalidInput("", [finding]))
    assert "detail" not in body
    assert body["extensions"] == {
        "validationErrors": [
            {
                "amount": 0,
                "field": "$.amount",
                "code": "grant_amount_must_be_positive",
                "message": "amount must be positive",
                "severity": "critical",
            }
        ]
    }
    assert body_of(Conflict("x", "01ID"))["extensions"] == {"conflictingEntityId": "01ID"}


def test_unavailable_says_when_to_try_again() -> None:
    assert of_error(Unavailable("x", retry_after_seconds=7), {}).headers["retry-after"] == "7"
