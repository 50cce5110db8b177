"""Which records of a batch are duplicates: the same id was counted before, at a smaller offset, within the window.

The dedupe store keeps, for each id, where it was last counted, and where it was counted before that if it was counted
again after the window. A range that is done again must come to the same answer, although the store may already have its
ids: so only what was counted below the range's start is taken from the store, and the rest is found anew.
"""

from collections.abc import Sequence
from typing import NamedTuple


class Sighting(NamedTuple):
    """Where an id was counted: its offset and its ingest time (ms)."""

    offset: int
    ingest_time: int


class Known(NamedTuple):
    """What the store has of an id: the last time it was counted, and the time before, if it was counted again."""

    last: Sighting
    before: Sighting | None = None


def counted_below(known: Known | None, start: int) -> Sighting | None:
    """The last time an id was counted below offset `start`, as far as the store knows."""
    if known is None:
        return None
    if known.last.offset < start:
        return known.last
    return known.before if known.before is not None and known.before.offset < start else None


def duplicates(
    keys: Sequence[bytes],
    offsets: Sequence[int],
    ingest_times: Sequence[int],
    known: Sequence[Known | None],
    *,
    start: int,
    window_ms: int,
) -> set[int]:
    """The indexes of the records that are duplicates.

    The sequences are parallel, in order of offsets, without rejected records and ticks. `known` is what the store has
    of each key; `start` is the offset at which the range begins.
    """
    seen: dict[bytes, Sighting] = {}
    found: set[int] = set()
    for index, key in enumerate(keys):
        last = seen.get(key)
        if last is None:
            last = counted_below(known[index], start)
        if last is not None and ingest_times[index] - last.ingest_time < window_ms:
            found.add(index)
            seen.setdefault(key, last)
        else:
            seen[key] = Sighting(offsets[index], ingest_times[index])
    return found


def remembered(known: Known | None, counted: Sighting, start: int) -> Known:
    """What the store is to have of an id that was counted in a range which begins at `start`."""
    return Known(counted, counted_below(known, start))
