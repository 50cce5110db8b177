"""The dedupe store on a real RocksDB."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sink.duplicates import Known, Sighting
from sink.store import EXPIRED_ROWS_MAX, DedupeStore

A, B = b"a" * 16, b"\0" * 16  # the second sorts where the rows by time begin


@pytest.fixture
def store(tmp_path: Path) -> Iterator[DedupeStore]:
    store = DedupeStore.open(tmp_path, 3)
    yield store
    store.close()


def put(store: DedupeStore, keys: list[bytes], at: list[tuple[int, int]], start: int, end: int) -> None:
    store.put(keys, [Sighting(*each) for each in at], store.lookup(keys), start=start, end=end)


def test_a_new_store_knows_nothing(store: DedupeStore) -> None:
    assert store.reach() == 0
    assert store.lookup([A, B]) == [None, None]
    assert store.lookup([]) == []


def test_ids_and_reach_outlive_the_process(store: DedupeStore, tmp_path: Path) -> None:
    put(store, [A, B], [(0, 10), (1, 11)], 0, 5)
    store.close()
    again = DedupeStore.open(tmp_path, 3)
    assert (again.path, again.reach()) == (store.path, 5)
    assert again.lookup([B, A]) == [Known(Sighting(1, 11)), Known(Sighting(0, 10))]
    again.close()


def test_an_id_counted_again_keeps_where_it_was_counted_before(store: DedupeStore) -> None:
    put(store, [A], [(0, 10)], 0, 5)
    put(store, [A], [(7, 90)], 5, 9)
    assert store.lookup([A]) == [Known(Sighting(7, 90), Sighting(0, 10))]
    put(store, [A], [(7, 90)], 5, 9)
    assert store.lookup([A]) == [Known(Sighting(7, 90), Sighting(0, 10))], "the same range done again"


def test_ids_are_forgotten_once_the_window_has_passed_them(store: DedupeStore) -> None:
    put(store, [A, B], [(0, 10), (1, 20)], 0, 5)
    put(store, [A], [(7, 90)], 5, 9)
    assert store.expire(20) == 0
    assert store.expire(21) == 1
    assert store.lookup([A, B]) == [Known(Sighting(7, 90), Sighting(0, 10)), None]
    assert store.expire(91) == 1
    assert store.lookup([A]) == [None]
    assert store.reach() == 9


def test_forgetting_is_bounded_and_goes_on(store: DedupeStore) -> None:
    keys = [bytes([n]) * 16 for n in range(3 * EXPIRED_ROWS_MAX)]
    for n, key in enumerate(keys):
        put(store, [key], [(n, n)], n, n + 1)
    done = 0
    while forgotten := store.expire(1000):
        assert forgotten <= EXPIRED_ROWS_MAX
        done += forgotten
    assert done == len(keys)
    assert store.lookup(keys) == [None] * len(keys)


def test_a_store_that_another_holds_is_passed_over(store: DedupeStore, tmp_path: Path) -> None:
    put(store, [A], [(0, 10)], 0, 5)
    other = DedupeStore.open(tmp_path, 3)
    assert other.path != store.path
    assert other.reach() == 0
    other.close()
