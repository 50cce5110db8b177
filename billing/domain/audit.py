"""The audit log: each entry carries the hash of the one before, so that none can be changed or taken out unseen."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from billing.domain.canonical import canonical, fingerprint

GENESIS: Final = "0" * 64


@dataclass(frozen=True, slots=True)
class Entry:
    """A change of state: `sequence` counts from 1 without gaps; `hash` covers all other members."""

    sequence: int
    at: datetime
    actor: str
    action: str
    subject: str
    details: Mapping[str, Any]
    previous: str
    hash: str


def next_entry(
    last: Entry | None, *, at: datetime, actor: str, action: str, subject: str, details: Mapping[str, Any]
) -> Entry:
    """The entry after `last`."""
    sequence = 1 if last is None else last.sequence + 1
    previous = GENESIS if last is None else last.hash
    entry = Entry(sequence, at, actor, action, subject, dict(details), previous, "")
    return replace(entry, hash=_hash(entry))


def first_break(entries: Iterable[Entry]) -> int | None:
    """The sequence number at which the chain, read from its start, does not hold; None if it does."""
    previous = GENESIS
    for sequence, entry in enumerate(entries, start=1):
        if (entry.sequence, entry.previous, entry.hash) != (sequence, previous, _hash(entry)):
            return sequence
        previous = entry.hash
    return None


def _hash(entry: Entry) -> str:
    members = [entry.sequence, entry.at, entry.actor, entry.action, entry.subject, dict(entry.details), entry.previous]
    return fingerprint(canonical(members))
