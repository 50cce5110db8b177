"""Whether a text is a URI reference (RFC 3986), as CloudEvents asks of `source`. Plain words and spaces pass."""

import re
from functools import lru_cache
from typing import Final

_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f]|%(?![0-9A-Fa-f]{2})")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*")
_FIRST_SEGMENT_END: Final = re.compile(r"[/?#]")
_AUTHORITY: Final = re.compile(r"(?:[^@]*@)?(?:\[[0-9A-Fa-fv:.%]+\]|[^\s\[\]:@<>\"\\^`{|}]*)(?::[0-9]*)?")


@lru_cache(maxsize=10_000)
def is_uri_reference(text: str) -> bool:
    """Refuses control characters, broken percent escapes, a colon without a scheme, and a broken authority."""
    if _FORBIDDEN.search(text):
        return False
    first_segment = _FIRST_SEGMENT_END.split(text, maxsplit=1)[0]
    scheme, colon, _ = first_segment.partition(":")
    if colon and not _SCHEME.fullmatch(scheme):
        return False
    rest = text[len(scheme) + 1 :] if colon else text
    if not rest.startswith("//"):
        return True
    authority = _FIRST_SEGMENT_END.split(rest[2:], maxsplit=1)[0]
    return _AUTHORITY.fullmatch(authority) is not None
