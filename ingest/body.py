"""Reads a request's body within its bounds, and unpacks it."""

import zlib
from collections.abc import Awaitable, Callable, MutableMapping
from http import HTTPStatus
from typing import Any, Final

from ingest.problems import Problem

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]

_GZIP: Final = 16 + zlib.MAX_WBITS


class ClientGoneError(Exception):
    """The client closed the connection before its body was complete."""


def too_large(bytes_max: int) -> Problem:
    return Problem(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the body is larger than {bytes_max} bytes", "body_too_large")


async def read_body(receive: Receive, headers: dict[bytes, bytes], bytes_max: int) -> bytes | Problem:
    """The body, decompressed. Never holds more than `bytes_max` of it. Raises ClientGoneError."""
    length = headers.get(b"content-length", b"")
    if length.isdigit() and (len(length) > len(str(bytes_max)) or int(length) > bytes_max):
        return too_large(bytes_max)
    message = await receive()
    body: bytes = message.get("body", b"")
    if message.get("more_body", False):
        chunks, size = [body], len(body)
        while message.get("more_body", False):
            message = await receive()
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > bytes_max:
                return too_large(bytes_max)
            chunks.append(chunk)
        body = b"".join(chunks)
    if message["type"] == "http.disconnect":
        raise ClientGoneError
    if len(body) > bytes_max:
        return too_large(bytes_max)
    encoding = headers.get(b"content-encoding")
    return body if encoding is None else _decode(body, encoding.strip().lower(), bytes_max)


def _decode(body: bytes, encoding: bytes, bytes_max: int) -> bytes | Problem:
    if encoding in (b"", b"identity"):
        return body
    if encoding not in (b"gzip", b"x-gzip"):
        named = encoding[:64].decode("latin-1")
        detail = f'content encoding "{named}" is not supported, gzip is'
        return Problem(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, detail, "content_encoding")
    decompressor = zlib.decompressobj(_GZIP)
    try:
        plain = decompressor.decompress(body, bytes_max + 1)
    except zlib.error as error:
        return _not_gzip(str(error))
    if len(plain) > bytes_max:
        return too_large(bytes_max)
    if not decompressor.eof or decompressor.unused_data:
        return _not_gzip("it is cut off" if not decompressor.eof else "there is more after its end")
    return plain


def _not_gzip(why: str) -> Problem:
    detail = f"request body has an error: failed to decode request body: not a gzip stream: {why}"
    return Problem(HTTPStatus.BAD_REQUEST, detail, "content_encoding")
