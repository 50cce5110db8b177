"""Schedules that broke earlier designs, and what becomes of them now. Found by searching models of the protocol."""

import pytest

from metering.domain.errors import ProtocolViolation
from sink.plan import (
    CompareAndSet,
    Fetch,
    InsertEvents,
    InsertFlush,
    InsertUsage,
    KnownRevision,
    PutIds,
    SendDeltas,
)
from tests.simulation.engines import MINUTE, Broken, Record
from tests.simulation.loop import Rules
from tests.simulation.oracle import reached, usage_by_minute
from tests.simulation.run import Stage
from tests.simulation.variants import VARIANTS


def counted(stage: Stage) -> list[str]:
    """The letters that were counted, in order of their offsets."""
    return [key.decode() for _, (key, _, _) in sorted(stage.world.clickhouse.rows("events").items())]


def test_a_store_that_was_away_is_completed_before_it_is_asked() -> None:
    """S0 counts W, S1 counts X, then S0 is back with a store that knows nothing of X, and X comes again."""
    stage = Stage()
    stage.append("WXXZ")
    first = stage.start(0)
    stage.run_to(first, PutIds, most=1)
    first.step()
    stage.run_to(first, CompareAndSet, most=1)
    first.step()
    stage.kill(first)
    second = stage.start(1)
    stage.run_to(second, PutIds, most=1)
    second.step()
    stage.run_to(second, CompareAndSet, most=1)
    second.step()
    third = stage.start(0)
    stage.finish(third, most=1)
    stage.settle()
    assert counted(stage) == ["W", "X", "Z"]


def test_a_zombie_inserts_its_range_after_others_have_gone_far_beyond() -> None:
    """What a window of insert tokens forgets: the rows of [0, 1) come again when the owner is at the end."""
    stage = Stage()
    stage.append("XYXZ")
    zombie = stage.start(0)
    stage.run_to(zombie, InsertUsage, most=1)
    owner = stage.start(1)
    stage.finish(owner, most=1)
    zombie.step()
    stage.run_to(zombie, Fetch)
    stage.settle()
    assert counted(stage) == ["X", "Y", "Z"]


def test_an_owner_that_does_not_know_it_lost_the_partition_can_not_plan() -> None:
    """Both fetched from 0; the one that was taken over compares an epoch that has passed."""
    stage = Stage()
    stage.append("XY")
    old = stage.start(0)
    stage.run_to(old, CompareAndSet)
    old.step()
    stage.run_to(old, CompareAndSet, most=1)
    new = stage.start(1)
    stage.run_to(new, InsertEvents, most=2)
    old.step()
    stage.run_to(old, InsertEvents)
    assert old.ended, "fenced before it inserts anything"
    stage.settle()


def test_a_plan_that_hung_is_refused_once_another_was_made() -> None:
    """S0's plan [0, 1) hangs; the same is planned again and done, then [1, 2); the first arrives at last."""
    stage = Stage()
    stage.append("XY")
    loop = stage.start(0)
    stage.run_to(loop, CompareAndSet)
    loop.step()
    stage.run_to(loop, CompareAndSet, most=1)
    loop.step("hung")
    stage.run_to(loop, PutIds, most=1)
    stage.finish(loop, most=1)
    _, late = stage.world.hung.pop()
    late()
    assert stage.world.postgres.plans[0].fence == (1, 1, 2)
    stage.kill(loop)
    stage.start(0)
    stage.settle()
    assert counted(stage) == ["X", "Y"]


def test_a_plan_that_was_written_though_it_seemed_lost_is_followed() -> None:
    stage = Stage()
    stage.append("XYZ")
    loop = stage.start(0)
    stage.run_to(loop, CompareAndSet)
    loop.step()
    stage.run_to(loop, CompareAndSet, most=2)
    loop.step("applied, unclear")
    stage.settle()
    assert counted(stage) == ["X", "Y", "Z"]


def test_committed_offsets_of_the_group_play_no_part() -> None:
    """All sinks stop for longer than Kafka keeps offsets. Where to go on stands in the fence row."""
    stage = Stage()
    stage.append("XYXZ")
    loop = stage.start(0)
    stage.finish(loop, most=2)
    stage.kill(loop)
    stage.world.clock += 10_000
    again = stage.start(0)
    stage.run_to(again, Fetch)
    assert isinstance(again.command, Fetch)
    assert again.command.start == 2, "the last planned range, not the beginning"
    stage.settle()
    assert counted(stage) == ["X", "Y", "Z"]


def test_rows_that_clickhouse_acknowledged_and_lost_come_again() -> None:
    """ClickHouse is killed after an insert was noted and before its part was there. No token swallows the retry."""
    stage = Stage()
    stage.append("XXY")
    loop = stage.start(0)
    stage.run_to(loop, InsertEvents, most=1)
    loop.step("lost")
    stage.run_to(loop, InsertUsage)
    loop.step()
    stage.world.clickhouse.crash({(0, stage.world.postgres.plans[0].a)})
    stage.run_to(loop, PutIds)
    stage.kill(loop)
    stage.start(1)
    stage.settle()
    assert counted(stage) == ["X", "Y"]


@pytest.mark.parametrize(
    "at", [CompareAndSet, InsertEvents, InsertUsage, InsertFlush, SendDeltas, PutIds, KnownRevision]
)
def test_killed_before_any_step_and_done_again_at_the_same_revision(at: type) -> None:
    """A revision comes between the two: the range keeps the one that was planned."""
    stage = Stage()
    stage.append("XYXZ")
    loop = stage.start(0)
    stage.run_to(loop, Fetch)
    stage.run_to(loop, at, most=2)
    stage.kill(loop)
    stage.world.postgres.registries.append(stage.world.postgres.registries[0])
    stage.world.known_revision = [2, 2]
    planned = stage.world.postgres.plans[0]
    stage.start(1)
    stage.settle()
    flushes = stage.world.clickhouse.rows("flushes")
    if planned.end:
        assert flushes[0, planned.a]["revision"] == planned.revision == 1
    assert max(row["revision"] for row in flushes.values()) == 2
    assert counted(stage) == ["X", "Y", "Z"]


def test_two_sinks_whose_takes_were_unclear_never_share_an_epoch() -> None:
    stage = Stage()
    stage.append("XY")
    first, second = stage.start(0), stage.start(1)
    stage.run_to(first, CompareAndSet)
    stage.run_to(second, CompareAndSet)
    first.step("lost")
    second.step("applied, unclear")
    stage.run_to(first, Fetch)
    stage.run_to(second, Fetch)
    assert stage.world.postgres.plans[0].epoch >= 2
    stage.finish(first, most=1)
    stage.finish(second, most=2)
    assert first.ended != second.ended
    stage.owners[0] = 0 if second.ended else 1
    stage.settle()


def test_records_that_are_not_those_that_were_planned_stop_the_sink() -> None:
    """An unclean leader election put other records at the same offsets."""
    stage = Stage()
    stage.append("XY")
    loop = stage.start(0)
    stage.run_to(loop, InsertUsage, most=2)
    stage.kill(loop)
    stage.world.kafka.logs[0][1] = Record(b"Q", 100, "s1")
    with pytest.raises(ProtocolViolation, match="not those that were planned"):
        stage.finish(stage.start(1))


def test_a_store_that_knows_more_than_was_ever_planned_stops_the_sink() -> None:
    """The row in Postgres was restored from a backup: counting on from it would count twice."""
    stage = Stage()
    stage.append("XYZ")
    loop = stage.start(0)
    stage.run_to(loop, PutIds, most=1)
    backup = stage.world.postgres.plans[0]
    stage.finish(loop, most=1)
    stage.kill(loop)
    stage.world.postgres.plans[0] = backup
    with pytest.raises(ProtocolViolation, match="the dedupe store is complete to 3"):
        stage.finish(stage.start(0))


def test_an_undecodable_record_does_not_shadow_the_event_that_is_sent_again() -> None:
    stage = Stage()
    stage.append("!XX")
    stage.finish(stage.start(0), most=1)
    stage.settle()
    assert counted(stage) == ["X"]


@pytest.mark.parametrize("most", [1, 3])
def test_at_the_edge_of_the_window_a_replay_comes_to_the_same_answer(most: int) -> None:
    """X is counted, comes again within the window, and once more beyond it: the last is counted, also when replayed."""
    stage = Stage(rules=Rules(window=10))
    stage.append("X")
    stage.finish(stage.start(0))
    stage.world.clock += 9
    stage.append("X")
    stage.world.clock += 1
    stage.append("X")
    loop = stage.loops[0]
    stage.run_to(loop, PutIds, most=most)
    loop.step()
    stage.kill(loop)
    stage.start(0)
    stage.settle()
    assert counted(stage) == ["X", "X"]


def test_after_a_fail_over_to_a_leader_that_is_behind_no_row_gets_below_a_cut() -> None:
    """A tick has taken the partition past the cut; then the new leader's clock says an earlier time."""
    stage = Stage(partitions=2)
    loops = [stage.start(0, 0), stage.start(1, 1)]
    stage.world.clock = 2 * MINUTE + 1
    for partition, loop in enumerate(loops):
        stage.append("X", partition)
        stage.append(".", partition)
        stage.finish(loop)
    cut = 2 * MINUTE
    assert all(reached(stage.world, partition) > cut for partition in (0, 1))
    billed = usage_by_minute(stage.world, cut)
    stage.world.skew[0] = -2 * MINUTE
    stage.append("Y", 0)
    stage.settle()
    assert usage_by_minute(stage.world, cut) == billed == {}


def test_a_quiet_partition_passes_time_by_ticks_only() -> None:
    """No sink's clock says that a partition has passed a cut: a record could lie there that was not fetched yet."""
    stage = Stage()
    loop = stage.start(0)
    stage.append("X")
    stage.finish(loop)
    before = reached(stage.world, 0)
    stage.world.clock += 5 * MINUTE
    stage.append("Y")
    assert reached(stage.world, 0) == before
    stage.finish(loop)
    assert reached(stage.world, 0) == before + 5 * MINUTE
    stage.world.clock += MINUTE
    stage.run_to(loop, Fetch)
    loop.step()
    loop.step()
    stage.finish(loop)
    assert reached(stage.world, 0) == before + 6 * MINUTE
    stage.settle()


def test_the_zombie_schedule_breaks_without_keys() -> None:
    """The same schedule as above finds the fault when rows do not carry the key of what they count."""
    variant = VARIANTS["without keyed"]
    stage = Stage(rules=variant.rules)
    stage.append("XYXZ")
    zombie = stage.start(0)
    stage.run_to(zombie, InsertUsage, most=1)
    stage.finish(stage.start(1), most=1)
    zombie.step()
    with pytest.raises(Broken, match="usage"):
        stage.settle()
