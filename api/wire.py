"""What goes over the wire: texts of instants and numbers, the shape of answers, the types of requests.

Answers are msgspec structs: names in camelCase, members equal to their default left out, Decimals as the shortest JSON
number. Requests are pydantic models (`Body`), whose Decimals are read from the JSON text and never through a float.
"""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Final

import msgspec
from fastapi import Response
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel

from metering.domain.measure import json_number

ENCODER: Final = msgspec.json.Encoder(decimal_format="number")
JSON: Final = "application/json"

_DATE_TIME: Final = re.compile(
    r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d)", flags=re.ASCII
)
_ESCAPES: Final = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    ("\u2028".encode(), b"\\u2028"),
    ("\u2029".encode(), b"\\u2029"),
)


class Wire(msgspec.Struct, kw_only=True, rename="camel", omit_defaults=True):
    """An answer, or a part of one."""


class Body(BaseModel):
    """A request's body. Members it doesn't know are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", alias_generator=to_camel, populate_by_name=False)


class WireResponse(Response):
    """A JSON answer whose content is bytes already."""

    media_type = JSON


def encode(value: Any) -> bytes:
    """JSON as the API prints it: `<`, `>`, `&` and the line separators escaped, one newline at the end."""
    text = ENCODER.encode(value)
    for character, escape in _ESCAPES:
        if character in text:
            text = text.replace(character, escape)
    return text + b"\n"


def respond(value: Any, status: int = 200) -> WireResponse:
    return WireResponse(encode(value), status)


def timestamp(at: datetime) -> str:
    """RFC 3339 in UTC, up to microseconds, without trailing zeros of the fraction."""
    text = at.astimezone(UTC).isoformat().removesuffix("+00:00")
    return (text.rstrip("0") if "." in text else text) + "Z"


def maybe_timestamp(at: datetime | None) -> str | None:
    return None if at is None else timestamp(at)


def maybe_number(value: Decimal | None) -> Decimal | None:
    return None if value is None else json_number(value)


def instant(text: object) -> datetime:
    """From RFC 3339 with an offset; raises ValueError."""
    if isinstance(text, datetime):
        return text
    if not isinstance(text, str) or _DATE_TIME.fullmatch(text) is None:
        raise ValueError("must be an RFC 3339 date-time with an offset")
    return datetime.fromisoformat(text.upper())


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic reports ValueErrors
    return Decimal(value) if isinstance(value, int) else value


def _integer(value: object) -> object:
    if isinstance(value, Decimal) and value == value.to_integral_value():
        return int(value)  # 1.0 is an integer in JSON Schema
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError("must be an integer")  # noqa: TRY004 - pydantic reports ValueErrors
    return value


_JSON_NUMBER: Final = WithJsonSchema({"type": "number", "format": "double"})

# Types of request members.
Instant = Annotated[datetime, BeforeValidator(instant)]
Amount = Annotated[Decimal, BeforeValidator(_number), Field(max_digits=24, decimal_places=12), _JSON_NUMBER]
Positive = Annotated[
    Decimal,
    BeforeValidator(_number),
    Field(ge=0, max_digits=24, decimal_places=12),
    WithJsonSchema({"type": "number", "format": "double", "minimum": 0}),
]
Integer = Annotated[int, BeforeValidator(_integer), WithJsonSchema({"type": "integer"})]
Flag = Annotated[bool, Field(strict=True)]
Key = Annotated[str, Field(pattern=r"^[a-z0-9]+(?:_[a-z0-9]+)*$", min_length=1, max_length=64)]
Ulid = Annotated[str, Field(pattern=r"^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$")]
Name = Annotated[str, Field(min_length=1, max_length=256)]
Description = Annotated[str, Field(max_length=1024)]
Metadata = dict[str, str]

# Types of answer members, for the document.
Timestamp = Annotated[str, msgspec.Meta(extra_json_schema={"format": "date-time"})]
Number = Annotated[Decimal, msgspec.Meta(extra_json_schema={"type": "number", "format": "double"})]


class Problem(Wire):
    """A problem as in RFC 9457. `type` is always about:blank."""

    type: str
    title: str
    status: int
    detail: str | None = None
    instance: str | None = None
    extensions: Mapping[str, Any] | None = None


_DOCUMENTED: Final[dict[str, Any]] = {}


def answers(wire: Any, description: str = "The request has succeeded.") -> dict[str, Any]:
    """An OpenAPI response with this struct, or list of it; `components` then has its schema."""
    (schema,), parts = msgspec.json.schema_components([wire], ref_template="#/components/schemas/{name}")
    _DOCUMENTED.update(parts)
    return {"description": description, "content": {JSON: {"schema": schema}}}


def components() -> dict[str, Any]:
    """The schemas of all structs that `answers` was called with."""
    return dict(_DOCUMENTED)


NO_CONTENT: Final[dict[str, Any]] = {"description": "There is nothing to say: it is done."}
