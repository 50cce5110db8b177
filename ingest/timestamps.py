"""RFC 3339 texts to microseconds since the epoch."""

import re
from datetime import UTC, datetime
from typing import Final

import msgspec

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DECODER: Final = msgspec.json.Decoder(datetime)
_SEPARATOR: Final = 11  # where the T is, after the opening quote and the date
_OFFSET_WITHOUT_COLON: Final = -6  # where its sign would be
_LENGTH_UP_TO_MICROSECONDS: Final = 29  # len('"2031-02-03T04:05:06.123456Z"'): seven decimals are longer
_LENGTH_MAX: Final = 64
_EXCESS: Final = re.compile(rb"(\.[0-9]{6})[0-9]+")


def microseconds(raw: bytes) -> int:
    """The instant that a JSON string (with its quotes) names, cut to microseconds.

    Raises ValueError for anything that is no RFC 3339 date and time with an offset.
    """
    if not _SEPARATOR < len(raw) <= _LENGTH_MAX:
        raise ValueError("not a date and time")
    if raw[_SEPARATOR] not in b"Tt" or raw[_OFFSET_WITHOUT_COLON] in b"+-":  # both of which msgspec lets pass
        raise ValueError("not in the form of RFC 3339")
    if len(raw) > _LENGTH_UP_TO_MICROSECONDS:
        # msgspec would round what is finer than a microsecond, and so could move an event into the next period.
        raw = _EXCESS.sub(rb"\1", raw, count=1)
    try:
        instant = _DECODER.decode(raw)
    except msgspec.MsgspecError as error:
        raise ValueError(str(error)) from error
    if instant.tzinfo is None:
        raise ValueError("the offset from UTC is missing")
    since = instant - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds
