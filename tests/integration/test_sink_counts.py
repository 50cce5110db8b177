"""The sink on real engines: kill -9 between any two of its steps, rebalances, zombies, a lost dedupe store."""

import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import insert, select

from metering.domain.event import Event, event_key
from metering.domain.meter import Aggregation, Meter
from metering.postgres.registry import meter_changed, namespace_added
from metering.postgres.tables import backfills
from sink.failpoint import NAMES
from sink.settings import SinkSettings
from tests.conftest import ClickHouseDatabase, EngineUrls
from tests.integration.sink_stack import SinkStack, flight, wait_until


@pytest.fixture
def stack(
    engines: EngineUrls,
    postgres_url: str,
    clickhouse_database: ClickHouseDatabase,
    topic_prefix: str,
    tmp_path: Path,
) -> Iterator[SinkStack]:
    settings = SinkSettings(
        home=tmp_path,
        kafka_bootstrap=engines.kafka_bootstrap,
        postgres_url=SecretStr(postgres_url),
        clickhouse_url=SecretStr(clickhouse_database.url),
        clickhouse_database=clickhouse_database.name,
        topic_prefix=topic_prefix,
        event_partitions=2,
        balance_partitions=2,
    )
    stack = SinkStack(settings)
    yield stack
    stack.close()


def test_events_are_counted_once_and_all_records_are_accounted_for(stack: SinkStack) -> None:
    stack.send((flight(n) for n in range(1000)), twice_each=10)
    stack.send_broken(event_key("default", "test", "broken"), b'{"not": "an event"}')
    stack.start()
    stack.wait_flushed()
    stack.check()
    assert stack.query("SELECT code, meter FROM dead_letters FINAL") == [("undecodable", "")]


@pytest.mark.parametrize("failpoint", NAMES)
def test_kill_between_any_two_steps_changes_nothing(stack: SinkStack, failpoint: str) -> None:
    stack.send((flight(n) for n in range(900)), twice_each=7)
    killed = stack.start(FAILPOINT=f"{failpoint}:3")
    wait_until(lambda: killed.poll() is not None, "the failpoint")
    assert killed.returncode == -signal.SIGKILL, stack.log()
    stack.send((flight(n) for n in range(600, 1200)), twice_each=7)
    stack.start()
    stack.wait_flushed()
    stack.check()


def test_lost_dedupe_store_is_completed_from_events(stack: SinkStack) -> None:
    stack.send(flight(n) for n in range(500))
    first = stack.start()
    stack.wait_flushed()
    first.kill()
    first.wait()
    shutil.rmtree(stack.settings.home / "dedupe")
    stack.send(flight(n) for n in range(300, 700))
    stack.start()
    stack.wait_flushed()
    stack.check()


def test_two_sinks_share_the_partitions_and_one_takes_over_from_a_killed_one(stack: SinkStack) -> None:
    stack.send((flight(n) for n in range(400)), twice_each=5)
    first = stack.start("first")
    wait_until(lambda: "taken" in stack.log("first"), "the first sink to begin")
    stack.start("second")
    for start in range(400, 1600, 200):
        stack.send((flight(n) for n in range(start, start + 250)), twice_each=5)
    wait_until(lambda: "taken" in stack.log("second"), "the second sink to take a partition")
    first.kill()
    stack.send(flight(n) for n in range(1500, 2000))
    stack.wait_flushed()
    stack.check()


def test_a_sink_that_was_stopped_past_its_session_is_fenced_when_it_goes_on(stack: SinkStack) -> None:
    stack.send(flight(n) for n in range(600))
    zombie = stack.start("zombie")
    wait_until(lambda: stack.query("SELECT count() FROM flushes")[0][0], "the first flush")
    zombie.send_signal(signal.SIGSTOP)
    stack.send((flight(n) for n in range(400, 1000)), twice_each=3)
    stack.start("heir")
    stack.wait_flushed()
    zombie.send_signal(signal.SIGCONT)
    stack.send(flight(n) for n in range(900, 1500))
    wait_until(lambda: re.search("fenced|stopped|taken.*taken", stack.log("zombie"), re.DOTALL), "the zombie to notice")
    stack.wait_flushed()
    stack.check()


def test_a_meter_made_while_events_flow_counts_all_of_them(stack: SinkStack) -> None:
    stack.send(flight(n) for n in range(800))
    stack.start()
    wait_until(lambda: stack.query("SELECT count() FROM flushes")[0][0], "the first flush")
    late = Meter("default", "01METERLATE000000000000000", 1, "late", "flight", Aggregation.SUM, "$.miles")
    revision = stack.change(meter_changed(late))
    with stack.postgres.begin() as connection:
        connection.execute(insert(backfills).values(meter_key=late.key, namespace="default", revision=revision))
    stack.send((flight(n) for n in range(700, 1200)), twice_each=4)
    done = select(backfills.c.done_at).where(backfills.c.meter_key == late.key)

    def backfilled() -> bool:
        with stack.postgres.connect() as connection:
            return connection.execute(done).scalar_one() is not None

    wait_until(backfilled, "the backfill")
    stack.wait_flushed()
    rows = stack.query(f"SELECT subject, sum(events), sum(sum) FROM usage FINAL WHERE meter = '{late.key}' GROUP BY 1")
    miles = {subject: total for (slug, subject), total in stack.sent.usage().items() if slug == "miles"}
    assert {subject: (events, total) for subject, events, total in rows} == miles


def test_rows_that_clickhouse_lost_are_done_again(stack: SinkStack) -> None:
    """The newest rows are gone from all three tables, as after a power loss; the next start makes them anew."""
    stack.send((flight(n) for n in range(900)), twice_each=6)
    stack.start()
    stack.wait_flushed()
    first = stack.processes[0]
    first.kill()
    first.wait()
    for table, column in (("events", "offset"), ("usage", "a"), ("flushes", "a")):
        stack.clickhouse.command(
            f"DELETE FROM {table} WHERE partition = 0 AND {column} >= 100", settings={"mutations_sync": 1}
        )
    stack.clickhouse.command("DELETE FROM events WHERE partition = 1 AND offset < 50", settings={"mutations_sync": 1})
    stack.send(flight(n) for n in range(500, 1000))
    stack.start()
    stack.wait_flushed()
    stack.check()


def test_an_event_of_a_namespace_made_a_moment_ago_is_not_rejected(stack: SinkStack) -> None:
    """The registry is asked after the records were fetched, so whatever an accepted event relies on is known."""
    stack.start(SINK_REGISTRY_SECONDS="3600", SINK_TICK_SECONDS="3600")
    stack.send(flight(n) for n in range(5))
    stack.wait_flushed()
    stack.change(namespace_added("second"))
    event = flight(9)
    other = Event("second", event.id, event.source, event.type, event.subject, event.time, event.data)
    stack.send([other])
    stack.wait_flushed()
    assert stack.query("SELECT count() FROM events WHERE namespace = 'second'") == [(1,)]
    assert stack.query("SELECT count() FROM dead_letters") == [(0,)]
