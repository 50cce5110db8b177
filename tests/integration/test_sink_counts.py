"""The sink on real engines: kill -9 between any two of its steps, rebalances, zombies, a lost dedupe store."""

import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from metering.domain.event import event_key
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
