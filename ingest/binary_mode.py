"""CloudEvents in binary mode: attributes in `ce-` headers, data as the body (their HTTP binding, section 3.1)."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import unquote

import msgspec

_PREFIX: Final = b"ce-"
_JSON: Final = b"application/json"
_ANY: Final = msgspec.json.Decoder(msgspec.Raw)
_ENCODE: Final = msgspec.json.Encoder().encode


def structured(headers: Mapping[bytes, bytes], body: bytes) -> bytes:
    """The same event in structured mode, as JSON text. A body that is no JSON is returned as it is, to be refused."""
    event: dict[str, Any] = {
        name[len(_PREFIX) :].decode("latin-1"): unquote(value.decode("latin-1"))
        for name, value in headers.items()
        if name.startswith(_PREFIX)
    }
    if body.strip():
        try:
            event["data"] = _ANY.decode(body)
        except (msgspec.MsgspecError, RecursionError):
            return body
        content_type = headers.get(b"content-type", _JSON).partition(b";")[0].strip().lower()
        event["datacontenttype"] = content_type.decode("latin-1")
    return _ENCODE(event)
