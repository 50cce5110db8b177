"""Which ranges the audit asks for, from what ClickHouse and the deltas tell."""

import pytest

from metering.domain.errors import ProtocolViolation
from sink.audit import UNSYNCED_SECONDS, Flushed, holes, plans, unsynced

SLACK = UNSYNCED_SECONDS * 1000


def flushed(*bounds: tuple[int, int], at: int = 0) -> list[Flushed]:
    return [Flushed(a, end, revision=1, reached=10 * end, flushed_at=at) for a, end in bounds]


def test_holes_are_what_no_range_covers() -> None:
    assert holes(flushed((0, 3), (3, 5)), 0, 5) == []
    assert holes(flushed((0, 3), (4, 5)), 0, 9) == [(3, 4), (5, 9)]
    assert holes([], 0, 4) == [(0, 4)]


def test_ranges_that_overlap_stop_the_sink() -> None:
    with pytest.raises(ProtocolViolation):
        holes(flushed((0, 3), (2, 5)), 0, 5)


def test_what_was_flushed_shortly_before_a_start_is_suspect_and_what_was_at_work_too() -> None:
    started = 10 * SLACK
    old = flushed((0, 1), at=started - SLACK - 1)
    recent = flushed((1, 2), at=started - SLACK)
    later = flushed((2, 3), (3, 4), at=started + SLACK + 1)
    assert unsynced([*old, *recent, *later], started) == {1, 2}
    assert unsynced([*old, *later], started) == {2}


def test_a_range_that_is_done_again_begins_at_the_ingest_time_that_the_one_before_reached() -> None:
    found = plans(flushed((0, 3), (3, 5), (5, 6)), {0, 5}, floor=7)
    assert [(plan.a, plan.ingest_floor) for plan in found] == [(0, 7), (5, 50)]
