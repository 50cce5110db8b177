"""What is a valid event, said once more and naively: shares no code with ingest."""

import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[Tt](\d\d:\d\d:)([0-5]\d)(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime(2200, 1, 1, tzinfo=UTC)
_KNOWN = {"id", "source", "type", "subject", "specversion", "datacontenttype", "dataschema", "time", "data"}


def oracle_time(value: Any) -> int | None:
    """Microseconds, or None where the text is refused."""
    found = _TIME.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        return None
    day, clock, second, fraction, offset = found.groups()
    micros = int(((fraction or ".0")[1:] + "000000")[:6])
    hours, minutes = (0, 0) if offset in "Zz" else (int(offset[1:3]), int(offset[4:6]))
    if hours > 23 or minutes > 59:
        return None
    try:
        local = datetime.strptime(f"{day} {clock}{second}", "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    except ValueError:
        return None
    ahead = (hours * 60 + minutes) * (-1 if offset[0] == "-" else 1)
    total = ((local - _EPOCH) // timedelta(seconds=1) - ahead * 60) * 1_000_000 + micros
    return total if 0 < total < (_END - _EPOCH) // timedelta(microseconds=1) else None


def _names_right(event: dict[str, Any]) -> bool:
    names = [event.get(name) for name in ("id", "source", "type", "subject")]
    return all(isinstance(name, str) and 0 < len(name) <= 1024 and "\0" not in name for name in names)


def _extensions_right(event: dict[str, Any]) -> bool:
    extensions = {name: value for name, value in event.items() if name not in _KNOWN}
    return all(re.fullmatch("[a-zA-Z0-9]+", n) and not isinstance(v, dict | list) for n, v in extensions.items())


def _source_right(source: str) -> bool:
    return not re.search(r"%(?![0-9a-fA-F]{2})|[\x00-\x1f\x7f]|^:", source)


def oracle(event: Any, now_us: int) -> tuple[Any, ...] | None:
    """(id, source, type, subject, time, data) of a valid event, else None."""
    if not isinstance(event, dict) or not _names_right(event) or not _extensions_right(event):
        return None
    data, time = event.get("data"), event.get("time")
    right = (
        event.get("specversion") in ("1.0", "0.3")
        and event.get("datacontenttype") in (None, "application/json")
        and isinstance(event.get("dataschema"), str | None)
        and isinstance(data, dict | None)
        and "\\u0000" not in json.dumps(data)
        and _source_right(event["source"])
    )
    instant = now_us if time is None else oracle_time(time)
    if not right or instant is None:
        return None
    return (event["id"], event["source"], event["type"], event["subject"], instant, data)


def oracle_key(source: str, event_id: str) -> bytes:
    """The Kafka key in the namespace `default`."""
    plain = f"7:{len(source.encode())}:default{source}{event_id}".encode()
    return hashlib.blake2b(plain, digest_size=16).digest()
