"""The registry's log on the real Postgres: revisions in order, and one state for each."""

from __future__ import annotations

import random
import threading
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest
from pydantic import SecretStr

from metering.domain.meter import Aggregation, Meter
from metering.domain.registry import Registry
from metering.postgres.engine import sync_engine
from metering.postgres.migrate import add_namespace, migration_lock, upgrade
from metering.postgres.registry import (
    Change,
    append_changes_sync,
    current_revision,
    load_registry,
    meter_changed,
    meter_deleted,
    subject_attributed,
)
from metering.settings import EngineSettings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Engine


@pytest.fixture
def engine(postgres_url: str) -> Iterator[Engine]:
    settings = EngineSettings(postgres_url=SecretStr(postgres_url))
    with migration_lock(settings):
        upgrade(settings)
    engine = sync_engine(settings, application="test")
    yield engine
    engine.dispose()


def meter(meter_id: str, version: int = 1) -> Meter:
    since = datetime(2031, 1, 1, tzinfo=UTC)
    dims = (("a", "$.a"), ("b", "$['b c']"))
    return Meter("default", meter_id, version, f"slug_{meter_id}", "job", Aggregation.SUM, "$.n", dims, since)


def test_new_database_has_the_default_namespace(engine: Engine) -> None:
    with engine.begin() as connection:
        assert load_registry(connection) == Registry(1, frozenset({"default"}))
        add_namespace(connection, "default")
        assert current_revision(connection) == 1


def test_meter_and_attribution_come_back_as_they_were_written(engine: Engine) -> None:
    with engine.begin() as connection:
        changes = [meter_changed(meter("M1")), subject_attributed("default", "s", "C1")]
        assert append_changes_sync(connection, changes) == 3
    with engine.begin() as connection:
        registry = load_registry(connection)
        assert registry.meters_of("default", "job") == (meter("M1"),)
        assert registry.customer_of("default", "s") == "C1"
        assert load_registry(connection, 2).customer_of("default", "s") is None


def test_rolled_back_change_leaves_no_gap(engine: Engine) -> None:
    with engine.connect() as connection:
        append_changes_sync(connection, [subject_attributed("default", "s", "C1")])
        connection.rollback()
    with engine.begin() as connection:
        assert append_changes_sync(connection, [subject_attributed("default", "s", "C2")]) == 2


def test_revisions_become_visible_in_order_whoever_writes(engine: Engine) -> None:
    seen: list[list[int]] = []
    done = threading.Event()

    def write(writer: int) -> None:
        for n in range(15):
            with engine.begin() as connection:
                append_changes_sync(connection, [subject_attributed("default", f"{writer}-{n}", "C")] * 2)

    def watch() -> None:
        while not done.is_set():
            with engine.begin() as connection:
                revisions = connection.exec_driver_sql(
                    "SELECT revision FROM registry_changes ORDER BY revision"
                ).scalars()
                seen.append(list(revisions))

    writers = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    watcher = threading.Thread(target=watch)
    for thread in [watcher, *writers]:
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    watcher.join()
    assert seen
    for revisions in seen:
        assert revisions == list(range(1, len(revisions) + 1))
    with engine.begin() as connection:
        assert current_revision(connection) == 1 + 4 * 15 * 2


def test_state_at_any_revision_is_the_replay_of_the_log(engine: Engine, seed: int) -> None:
    """Against a naive replay; the whole load and any incremental one must agree with it."""
    pick = random.Random(seed)
    log: list[Change] = []
    with engine.begin() as connection:
        while len(log) < 60:
            batch = [_any_change(pick) for _ in range(pick.randint(1, 4))]
            append_changes_sync(connection, batch)
            log += batch
    with engine.begin() as connection:
        states = [load_registry(connection, revision) for revision in range(1, len(log) + 2)]
        for state in states:
            assert state == _replayed(log, state.revision)
        for _ in range(40):
            base, wanted = pick.choice(states), pick.choice(states)
            assert load_registry(connection, wanted.revision, base=base) == wanted


def _any_change(pick: random.Random) -> Change:
    name = str(pick.randint(0, 5))
    match pick.randint(0, 3):
        case 0:
            return meter_changed(meter(f"M{name}", pick.randint(1, 9)))
        case 1:
            return meter_deleted("default", f"M{name}")
        case 2:
            return subject_attributed("default", name, None)
        case _:
            return subject_attributed("default", name, f"C{pick.randint(0, 3)}")


def _replayed(log: list[Change], revision: int) -> Registry:
    meters: dict[str, Meter] = {}
    subjects: dict[tuple[str, str], str] = {}
    for change in log[: revision - 1]:  # the first revision is the default namespace
        if change.kind == "meter" and change.payload is None:
            meters.pop(change.key, None)
        elif change.kind == "meter":
            assert change.payload is not None
            meters[change.key] = meter(change.key, change.payload["version"])
        elif change.payload is None:
            subjects.pop(("default", change.key), None)
        else:
            subjects["default", change.key] = change.payload["customer"]
    ordered = tuple(meters[name] for name in sorted(meters))
    return Registry(revision, frozenset({"default"}), ordered, subjects)
