"""Identifiers: ULIDs in upper case, as the wire format prints them."""

import re
from typing import Final

from ulid import ULID

_ULID: Final = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}", re.IGNORECASE)


def new_id() -> str:
    """A fresh ULID, 26 characters, upper case."""
    return str(ULID())


def is_id(text: str) -> bool:
    """Whether `text` has the form of a ULID, in either case."""
    return _ULID.fullmatch(text) is not None
