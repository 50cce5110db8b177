"""The closer look at a body: says exactly what is wrong with it, or makes the same records as the fast way."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import msgspec

from ingest.cloudevent import ABSENT, NULL, RecordBuilder, Shape, is_batch
from ingest.limits import EVENT_BYTES_MAX, FINDINGS_MAX, NAME_CHARACTERS_MAX
from ingest.timestamps import microseconds
from ingest.uri_reference import is_uri_reference
from metering.domain.errors import Finding
from metering.domain.event import TIME_MAX_US, TIME_MIN_US
from metering.kafka.producer import Records

_NAMES: Final = ("id", "source", "type", "subject")
_KNOWN: Final = frozenset({*_NAMES, "specversion", "time", "data", "datacontenttype", "dataschema"})
_SPEC_VERSIONS: Final = ("1.0", "0.3")
_EXTENSION: Final = re.compile(r"[A-Za-z0-9]+")
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MESSAGE_CHARACTERS_MAX: Final = 200

_ANY: Final = msgspec.json.Decoder(msgspec.Raw)
_OBJECT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_LIST: Final = msgspec.json.Decoder(list[msgspec.Raw])
_STRING: Final = msgspec.json.Decoder(str)
_VALUE: Final = msgspec.json.Decoder(float_hook=str)


class Stage(StrEnum):
    """Which check refused: the document's schema, or the rules of CloudEvents. The texts of answers differ."""

    BODY = "body"
    SCHEMA = "schema"
    CLOUDEVENT = "cloudevent"
    EMPTY = "empty"
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a body is not accepted. `detail` is about the first finding, `pointer` its JSON pointer."""

    stage: Stage
    detail: str
    pointer: str = ""
    findings: tuple[Finding, ...] = ()


class _FaultError(Exception):
    """One thing wrong with one member."""

    def __init__(self, stage: Stage, member: str, code: str, message: str) -> None:
        super().__init__(message)
        self.stage, self.member, self.code, self.message = stage, member, code, message[:_MESSAGE_CHARACTERS_MAX]


def _schema(member: str, code: str, message: str) -> _FaultError:
    return _FaultError(Stage.SCHEMA, member, code, message)


def scrutinise(
    body: bytes, shape: Shape, *, namespace: str, partitions: int, now: int, events_max: int
) -> Records | Refusal:
    """The records of the body, or why not. Arguments as for `ingest.cloudevent.plain_records`."""
    if (refusal := _unreadable(body)) is not None:
        return refusal
    many = is_batch(body)
    if many and shape is Shape.ONE:
        return Refusal(Stage.SCHEMA, "value must be an object")
    if shape is Shape.MANY and not many:
        return Refusal(Stage.SCHEMA, "value must be an array")
    texts = _LIST.decode(body) if many else [msgspec.Raw(body)]
    if not 0 < len(texts) <= events_max:
        if not texts:
            return Refusal(Stage.EMPTY, "no events found")
        return Refusal(Stage.TOO_MANY, f"{len(texts)} events in a batch, at most {events_max} are taken")
    return _examine_all(texts, many, RecordBuilder(namespace, partitions), now)


def _unreadable(body: bytes) -> Refusal | None:
    """What keeps the body from being JSON in UTF-8."""
    if not body.strip():
        return Refusal(Stage.BODY, "value is required but missing")
    try:
        body.decode()
        _ANY.decode(body)
    except UnicodeDecodeError as error:
        return Refusal(Stage.BODY, f"failed to decode request body: invalid UTF-8 at byte {error.start}")
    except msgspec.DecodeError as error:
        return Refusal(Stage.BODY, f"failed to decode request body: {_broken(str(error))}")
    except RecursionError:
        return Refusal(Stage.BODY, "failed to decode request body: nested too deeply")
    return None


def _broken(message: str) -> str:
    return "unexpected EOF" if "truncated" in message else message


def _examine_all(texts: list[msgspec.Raw], many: bool, builder: RecordBuilder, now: int) -> Records | Refusal:
    first: tuple[_FaultError, str] | None = None
    findings: list[Finding] = []
    for index, text in enumerate(texts):
        faults: list[_FaultError] = []
        _examine(text, builder, now, faults)
        for fault in faults:
            where, at = (f"$[{index}]", f"/{index}") if many else ("$", "")
            if first is None:
                first = fault, f"{at}/{_escaped(fault.member)}" if fault.member else at
            findings.append(Finding(where + _step(fault.member), fault.code, fault.message))
        if len(findings) >= FINDINGS_MAX:
            break
    if first is None:
        return builder.build()
    fault, pointer = first
    return Refusal(fault.stage, fault.message, pointer, tuple(findings[:FINDINGS_MAX]))


def _step(member: str) -> str:
    if not member:
        return ""
    return f".{member}" if _FIELD.fullmatch(member) else "[" + msgspec.json.encode(member).decode() + "]"


def _escaped(member: str) -> str:
    return member.replace("~", "~0").replace("/", "~1")


def _examine(text: msgspec.Raw, builder: RecordBuilder, now: int, faults: list[_FaultError]) -> None:
    """Add the event to the builder, or its faults to `faults`."""
    try:
        members = _OBJECT.decode(text)
    except (msgspec.MsgspecError, RecursionError):
        faults.append(_schema("", "not_an_object", "value must be an object"))
        return
    names: dict[str, str] = {}

    def attempt(check: Any, *arguments: Any) -> Any:
        try:
            return check(*arguments)
        except _FaultError as fault:
            faults.append(fault)
            return None

    for name in _NAMES:
        names[name] = attempt(_name, members, name)
    attempt(_content_type, members)
    instant = attempt(_instant, members, now)
    data = attempt(_data, members)
    attempt(_schema_uri, members)
    attempt(_spec_version, members)
    if names["source"] is not None:
        attempt(_uri_reference, names["source"])
    for name in members.keys() - _KNOWN:
        attempt(_extension, name, members[name])
    if faults:
        # What the schema refuses is named first, as the schema is checked first.
        faults.sort(key=lambda fault: fault.stage is Stage.CLOUDEVENT)
        return
    size = builder.add(
        names["id"], source=names["source"], type=names["type"], subject=names["subject"], time=instant, data=data
    )
    if size > EVENT_BYTES_MAX:
        faults.append(_schema("", "too_long", f"an event takes at most {EVENT_BYTES_MAX} bytes, this one {size}"))


def _text(members: Mapping[str, msgspec.Raw], name: str) -> str:
    """A required member that is a string of at least one character."""
    raw = members.get(name)
    if raw is None:
        raise _schema(name, "missing", f'property "{name}" is missing')
    if bytes(raw) == b"null":
        raise _schema(name, "null", "Value is not nullable")
    try:
        text = _STRING.decode(raw)
    except msgspec.MsgspecError:
        raise _schema(name, "not_a_string", "value must be a string") from None
    if not text:
        raise _schema(name, "empty", "minimum string length is 1")
    return text


def _name(members: Mapping[str, msgspec.Raw], name: str) -> str:
    text = _text(members, name)
    if len(text) > NAME_CHARACTERS_MAX:
        raise _schema(name, "too_long", f"maximum string length is {NAME_CHARACTERS_MAX}")
    if "\0" in text:
        raise _schema(name, "nul", "the character NUL is not allowed")
    return text


def _spec_version(members: Mapping[str, msgspec.Raw]) -> None:
    version = _text(members, "specversion")
    if version not in _SPEC_VERSIONS:
        raise _FaultError(Stage.CLOUDEVENT, "specversion", "unknown", f"specversion: unknown value: {version}\n")


def _content_type(members: Mapping[str, msgspec.Raw]) -> None:
    raw = bytes(members.get("datacontenttype", NULL))
    if raw != b"null" and (raw[:1] != b'"' or _STRING.decode(raw) != "application/json"):
        message = 'value is not one of the allowed values ["application/json"]'
        raise _schema("datacontenttype", "unsupported", message)


def _schema_uri(members: Mapping[str, msgspec.Raw]) -> None:
    raw = bytes(members.get("dataschema", NULL))
    if raw != b"null" and raw[:1] != b'"':
        raise _schema("dataschema", "not_a_string", "value must be a string")


def _instant(members: Mapping[str, msgspec.Raw], now: int) -> int:
    raw = bytes(members.get("time", NULL))
    if raw == b"null":
        return now
    if raw[:1] != b'"':
        raise _schema("time", "not_a_string", "value must be a string")
    try:
        instant = microseconds(raw)
    except ValueError as error:
        message = f'string doesn\'t match the format "date-time": {error}'
        raise _schema("time", "not_a_date_time", message) from error
    if not TIME_MIN_US <= instant < TIME_MAX_US:
        message = "time must be after 1970-01-01T00:00:00Z and before 2200-01-01T00:00:00Z"
        raise _schema("time", "out_of_range", message)
    return instant


def _data(members: Mapping[str, msgspec.Raw]) -> msgspec.Raw:
    raw = members.get("data", ABSENT)
    text = bytes(raw)
    if text in (b"", b"null"):
        return NULL
    if text[:1] != b"{":
        raise _schema("data", "not_an_object", "value must be an object")
    if b"\\u0000" in text:
        try:
            value = _VALUE.decode(raw)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise _schema("data", "unreadable", str(error)) from error
        if _has_nul(value):
            raise _schema("data", "nul", "the character NUL is not allowed")
    return raw


def _has_nul(value: Any) -> bool:
    match value:
        case str():
            return "\0" in value
        case list():
            return any(map(_has_nul, value))
        case dict():
            return any("\0" in name or _has_nul(each) for name, each in value.items())
        case _:
            return False


def _uri_reference(source: str) -> None:
    if not is_uri_reference(source):
        raise _FaultError(Stage.CLOUDEVENT, "source", "not_a_uri_reference", f"cannot parse uri ref: {source}")


def _extension(name: str, raw: msgspec.Raw) -> None:
    if not _EXTENSION.fullmatch(name):
        message = f"invalid extension name: {name[:_MESSAGE_CHARACTERS_MAX]}"
        raise _FaultError(Stage.CLOUDEVENT, name[:NAME_CHARACTERS_MAX], "extension_name", message)
    if bytes(raw)[:1] in (b"{", b"["):
        message = f"invalid value of extension {name}: neither text, number, boolean nor null"
        raise _FaultError(Stage.CLOUDEVENT, name, "extension_value", message)
