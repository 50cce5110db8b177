"""Errors of the domain: facts without HTTP. `api/problems.py` gives each class its status.

WeighbridgeError
├── InvalidInput            the request can't be understood or breaks a rule; names the field
├── Unauthorized            who asks is not known
├── Forbidden               who asks may not
├── NotFound
├── Conflict                the state of another object forbids it; may name that object
├── PreconditionFailed      the object is in a state that forbids it, such as deleted
├── TooLarge                the body or the batch is beyond the limit
├── Unavailable             an engine is away or too slow; try again after a while
└── ProtocolViolation       an invariant of exactly-once does not hold; the process stops and says so
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing wrong with one field.

    `field` is a JSONPath into the request such as `$.amount`; `code` is stable, `message` is for people.
    """

    field: str
    code: str
    message: str
    attributes: Mapping[str, Any] | None = None


class WeighbridgeError(Exception):
    """Anything that this system refuses, for a reason it can name."""


class InvalidInput(WeighbridgeError):
    """The input breaks a rule. `findings` says which fields and why."""

    def __init__(self, detail: str, findings: Sequence[Finding] = ()) -> None:
        super().__init__(detail)
        self.detail = detail
        self.findings = tuple(findings)


class Unauthorized(WeighbridgeError):
    """Who asks is not known."""


class Forbidden(WeighbridgeError):
    """Who asks may not do this."""


class NotFound(WeighbridgeError):
    """There is no such object in this namespace."""


class Conflict(WeighbridgeError):
    """The state of another object forbids this."""

    def __init__(self, detail: str, conflicting_id: str | None = None) -> None:
        super().__init__(detail)
        self.conflicting_id = conflicting_id


class PreconditionFailed(WeighbridgeError):
    """The object is in a state that forbids this."""


class TooLarge(WeighbridgeError):
    """The body or the batch is beyond the limit."""


class Unavailable(WeighbridgeError):
    """An engine is away or too slow. Nothing was acknowledged; try again after `retry_after_seconds`."""

    def __init__(self, detail: str, retry_after_seconds: int = 1) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds


class ProtocolViolation(WeighbridgeError):
    """An invariant of the exactly-once protocol does not hold. Going on would count wrongly."""
