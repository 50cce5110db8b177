"""CloudEvents as JSON to records for Kafka: the fast way for what is as it should be.

What isn't, or what needs a closer look (extensions, escaped NULs), is left to `ingest.scrutiny`, which either finds the
same records or says what is wrong.
"""

from collections.abc import Iterable
from enum import Enum
from functools import lru_cache
from hashlib import blake2b
from typing import Annotated, Any, Final, Literal

import msgspec

from ingest.limits import EVENT_BYTES_MAX, NAME_CHARACTERS_MAX
from ingest.timestamps import microseconds
from ingest.uri_reference import is_uri_reference
from metering.domain.event import KEY_BYTES, TIME_MAX_US, TIME_MIN_US, Event, partition_of
from metering.kafka.producer import Records

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=NAME_CHARACTERS_MAX)]

ABSENT: Final = msgspec.Raw(b"")
NULL: Final = msgspec.Raw(b"null")
_BYTES_BESIDE_EVENT: Final = 200  # namespace, time, brackets: what a record has and the request has not


class Envelope(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """A CloudEvent without extensions. `time` and `data` are JSON texts, so that no digit is lost."""

    id: Name
    source: Name
    specversion: Literal["1.0", "0.3"]
    type: Name
    subject: Name
    time: msgspec.Raw = ABSENT
    data: msgspec.Raw = ABSENT
    datacontenttype: Literal["application/json"] | None = None
    dataschema: str | None = None


class Shape(Enum):
    """What a content type says the body is."""

    ONE = "application/cloudevents+json"
    MANY = "application/cloudevents-batch+json"
    EITHER = "application/json"


class NotPlainError(Exception):
    """This body needs the closer look."""


_ONE: Final = msgspec.json.Decoder(Envelope)
_MANY: Final = msgspec.json.Decoder(list[Envelope])
_ENCODE: Final = msgspec.json.Encoder().encode


@lru_cache(maxsize=10_000)
def _hash_of_source(namespace: str, source: str) -> Any:
    """The hash of `metering.domain.event.event_key` as far as the source: most events come from few sources."""
    n, s = namespace.encode(), source.encode()
    return blake2b(b"%d:%d:" % (len(n), len(s)) + n + s, digest_size=KEY_BYTES)


class RecordBuilder:
    """Collects the records of one request by partition."""

    __slots__ = ("_bytes", "_count", "_namespace", "_partitions", "_records")

    def __init__(self, namespace: str, partitions: int) -> None:
        self._namespace = namespace
        self._partitions = partitions
        self._records: dict[int, list[dict[str, bytes]]] = {}
        self._count = self._bytes = 0

    def add(self, id: str, *, source: str, type: str, subject: str, time: int, data: msgspec.Raw) -> int:  # noqa: A002
        """Add one event and return the size of its value. `time` is in microseconds, `data` an object or null."""
        namespace = self._namespace
        digest = _hash_of_source(namespace, source).copy()
        digest.update(id.encode())
        key = digest.digest()
        value = _ENCODE(Event(namespace, id, source, type, subject, time, data))
        partition = partition_of(key, self._partitions)
        record = {"key": key, "value": value}
        if partition in self._records:
            self._records[partition].append(record)
        else:
            self._records[partition] = [record]
        self._count += 1
        self._bytes += KEY_BYTES + len(value)
        return len(value)

    def build(self) -> Records:
        return Records(self._records, self._count, self._bytes)


def is_batch(body: bytes) -> bool:
    """Whether a JSON text is an array, as far as its first character tells."""
    return body.lstrip(b" \t\r\n")[:1] == b"["


def plain_records(body: bytes, shape: Shape, *, namespace: str, partitions: int, now: int, events_max: int) -> Records:
    """The records of a body all of whose events are plain and right; `now` (microseconds) is for those without a time.

    Raises NotPlainError for any other body, `msgspec.MsgspecError`, UnicodeDecodeError, RecursionError included.
    """
    many = shape is Shape.MANY or (shape is Shape.EITHER and is_batch(body))
    if b"\\u0000" in body or not _is_utf8(body):
        raise NotPlainError
    try:
        envelopes: list[Envelope] = _MANY.decode(body) if many else [_ONE.decode(body)]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise NotPlainError from error
    if not 0 < len(envelopes) <= events_max:
        raise NotPlainError
    builder = RecordBuilder(namespace, partitions)
    _add_all(builder, envelopes, now, may_be_long=len(body) > EVENT_BYTES_MAX - _BYTES_BESIDE_EVENT - len(namespace))
    return builder.build()


def _is_utf8(body: bytes) -> bool:
    """msgspec checks the encoding of what it decodes, but not of what it leaves raw."""
    if body.isascii():
        return True
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _add_all(builder: RecordBuilder, envelopes: Iterable[Envelope], now: int, *, may_be_long: bool) -> None:
    for envelope in envelopes:
        if not is_uri_reference(envelope.source):
            raise NotPlainError
        time, data = envelope.time, envelope.data
        if time is ABSENT or (text := bytes(time)) == b"null":
            instant = now
        else:
            try:
                instant = microseconds(text)
            except ValueError as error:
                raise NotPlainError from error
            if not TIME_MIN_US <= instant < TIME_MAX_US:
                raise NotPlainError
        if data is ABSENT:
            data = NULL
        elif bytes(data)[:1] != b"{" and bytes(data) != b"null":
            raise NotPlainError
        size = builder.add(
            envelope.id,
            source=envelope.source,
            type=envelope.type,
            subject=envelope.subject,
            time=instant,
            data=data,
        )
        if may_be_long and size > EVENT_BYTES_MAX:
            raise NotPlainError
