"""A failed query as a server would answer it."""

from __future__ import annotations

import re

_CODE = re.compile(r"Code: (\d+)\.")

# As in ClickHouse's HTTP handler; all others are 500.
_BAD_REQUEST = {6, 26, 27, 28, 36, 38, 41, 42, 43, 44, 47, 53, 62, 69, 70, 72, 131, 179, 307, 386, 456, 457}
_NOT_FOUND = {45, 46, 50, 56, 60, 81, 115}
_FORBIDDEN = {164, 497}
_TOO_LARGE = {1001}
_OVERLOADED = {202}


class QueryFailed(Exception):
    """`code` is ClickHouse's number of the error, `message` its text as a server sends it."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        if self.code in _BAD_REQUEST:
            return 400
        if self.code in _NOT_FOUND:
            return 404
        if self.code in _FORBIDDEN:
            return 403
        if self.code in _OVERLOADED:
            return 503
        return 413 if self.code in _TOO_LARGE else 500


def failure(error: BaseException) -> QueryFailed:
    """Of what the embedded engine raised; code 1002 (unknown exception) when its text names none."""
    message = str(error)
    found = _CODE.search(message)
    return QueryFailed(int(found[1]) if found else 1002, message[found.start() :] if found else message)


def exception_block(tag: str, message: str) -> bytes:
    """How a server tells of a failure when a part of the result is out already: `tag` was in its headers."""
    text = message.rstrip().encode() + b"\n"
    length = str(len(text)).encode()
    marker = tag.encode()
    return b"\r\n".join([b"", b"__exception__", marker, text + length + b" " + marker, b"__exception__", b""])
