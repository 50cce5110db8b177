"""The rule of duplicates, against the plainest count of the whole log."""

import hypothesis.strategies as st
from hypothesis import given

from sink.duplicates import Known, Sighting, counted_below, duplicates, remembered

WINDOW = 10
LOG = st.lists(st.tuples(st.sampled_from([b"A", b"B", b"C"]), st.integers(0, 6)), min_size=1, max_size=30)


def naive(log: list[tuple[bytes, int]]) -> list[bool]:
    """For each record of a log of (key, ingest time): whether it counts."""
    counts: list[bool] = []
    for place, (key, time) in enumerate(log):
        earlier = [i for i in range(place) if log[i][0] == key and counts[i]]
        counts.append(not earlier or time - log[earlier[-1]][1] >= WINDOW)
    return counts


@given(LOG, st.data())
def test_ranges_done_once_or_twice_count_what_the_whole_log_counts(
    steps: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    time, log = 0, []
    for key, step in steps:
        time += step
        log.append((key, time))
    expected = naive(log)
    store: dict[bytes, Known] = {}
    a = 0
    while a < len(log):
        end = data.draw(st.integers(a + 1, len(log)), label="end")
        for _ in range(data.draw(st.integers(1, 3), label="times done")):
            keys = [key for key, _ in log[a:end]]
            times = [time for _, time in log[a:end]]
            known = [store.get(key) for key in keys]
            offsets = list(range(a, end))
            found = duplicates(keys, offsets, times, known, start=a, window_ms=WINDOW)
            assert [i not in found for i in range(end - a)] == expected[a:end]
            for i in range(end - a):
                if i not in found:
                    store[keys[i]] = remembered(known[i], Sighting(offsets[i], times[i]), a)
        a = end


def test_what_was_counted_at_or_above_the_start_is_not_taken_from_the_store() -> None:
    known = Known(Sighting(7, 70), Sighting(3, 30))
    assert counted_below(known, 8) == Sighting(7, 70)
    assert counted_below(known, 7) == Sighting(3, 30)
    assert counted_below(known, 3) is None
    assert counted_below(None, 3) is None


def test_the_window_is_half_open() -> None:
    known = [Known(Sighting(0, 100))]
    assert duplicates([b"A"], [5], [100 + WINDOW - 1], known, start=5, window_ms=WINDOW) == {0}
    assert duplicates([b"A"], [5], [100 + WINDOW], known, start=5, window_ms=WINDOW) == set()
