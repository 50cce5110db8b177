"""One byte string for each value, so that documents can be compared and hashed."""

import json
from datetime import UTC, datetime
from decimal import Decimal
from hashlib import sha256
from typing import Any

from billing.domain.money import plain


def canonical(document: Any) -> bytes:
    """JSON with sorted keys and without spaces; decimals and instants as texts. Floats are refused."""
    return json.dumps(_plain(document), sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def fingerprint(content: bytes) -> str:
    """SHA-256, in hex."""
    return sha256(content).hexdigest()


def stamp(at: datetime) -> str:
    """RFC 3339 in UTC; microseconds only where there are any."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


def _plain(value: Any) -> Any:
    match value:
        case None | bool() | int() | str():
            return value
        case Decimal():
            return plain(value)
        case datetime():
            return stamp(value)
        case dict():
            return {str(key): _plain(member) for key, member in value.items()}
        case list() | tuple():
            return [_plain(member) for member in value]
        case _:
            raise TypeError(f"{type(value).__name__} has no canonical form")
