"""The Faust app: what it is a member of, and which owner gets what it reads.

Faust brings group membership, co-partitioned assignment of the two input topics and the commit of what is acknowledged.
State is not in Faust's tables: see docs/decisions/balance-records.md.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import faust
import psycopg
import structlog
from faust.tables.manager import TableManager
from faust.types import TP

from metering.balances.epochs import raise_epoch
from metering.balances.owner import Owner
from metering.balances.replay import change_of, replay_balances, replay_changes
from metering.balances.settings import BalancesSettings
from metering.balances.source import ClickHouseSource
from metering.balances.writer import TopicWriter
from metering.domain.balance import Record
from metering.domain.balance_book import Change, Key
from metering.domain.balance_log import BalanceLog
from metering.domain.errors import Unavailable
from metering.kafka.topics import RECORD_BYTES_MAX
from metering.kafka.wire import DELTA_DECODER, Delta

log: Final = structlog.get_logger()


@dataclass(slots=True)
class Engines:
    """What all owners of a process share."""

    settings: BalancesSettings
    topic: TopicWriter
    source: ClickHouseSource

    async def close(self) -> None:
        await asyncio.to_thread(self.topic.close)
        await self.source.close()

    async def raise_epoch(self, partition: int) -> int:
        url = self.settings.postgres_url.get_secret_value()
        try:
            return await raise_epoch(url, self.settings.balances_topic, partition)
        except psycopg.OperationalError as error:
            raise Unavailable(f"Postgres: {error}") from error

    async def replay_balances(self, partition: int) -> BalanceLog[Key, Record]:
        place = self.settings.kafka_bootstrap, self.settings.balances_topic, partition
        return await asyncio.to_thread(replay_balances, *place)

    async def replay_changes(self, partition: int) -> list[Change]:
        place = self.settings.kafka_bootstrap, self.settings.entitlements_topic, partition
        return await asyncio.to_thread(replay_changes, *place)


@dataclass(slots=True)
class Owners:
    """The owners of the partitions that this process has been given."""

    engines: Engines
    sources: int
    crash: Callable[[BaseException], Any]
    by_partition: dict[int, Owner] = field(default_factory=dict)
    _tasks: dict[int, asyncio.Task[None]] = field(default_factory=dict)

    @property
    def are_ready(self) -> bool:
        """Whether every partition that was given is taken. None given: another process has them, and stands ready."""
        return all(owner.ready.is_set() for owner in self.by_partition.values())

    def of(self, partition: int) -> Owner:
        """The partition's owner, which takes it if it is new."""
        owner = self.by_partition.get(partition)
        if owner is None:
            engines = self.engines
            owner = Owner(partition, self.sources, engines.topic, engines.source, engines)
            self.by_partition[partition] = owner
            task = asyncio.create_task(owner.run(), name=f"owner of balance partition {partition}")
            task.add_done_callback(self._ended)
            self._tasks[partition] = task
        return owner

    async def leave(self, partitions: set[int]) -> None:
        """Stop owning these. What they have not acknowledged goes to the next owner."""
        tasks = [self._tasks.pop(partition) for partition in partitions & self._tasks.keys()]
        for partition in partitions:
            self.by_partition.pop(partition, None)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("balance_partition_failed", task=task.get_name(), exc_info=error)
            self.crash(error)


class _NoTables(TableManager):  # type: ignore[misc] # faust says nothing about its types
    """Faust gives agents a second to declare tables. There are none, and a second is much after a kill."""

    async def on_start(self) -> None:
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


class BalancesApp(faust.App):  # type: ignore[misc] # faust says nothing about its types
    """The Faust app of one process, with the owners it feeds."""

    def __init__(self, settings: BalancesSettings) -> None:
        super().__init__(
            f"{settings.topic_prefix}balances",
            broker=[f"aiokafka://{server.strip()}" for server in settings.kafka_bootstrap.split(",")],
            consumer_group_instance_id=settings.balances_instance,
            broker_session_timeout=settings.balances_session_seconds,
            broker_heartbeat_interval=settings.balances_session_seconds / 3,
            broker_commit_interval=settings.balances_commit_seconds,
            broker_commit_every=1_000_000,  # by time only
            consumer_auto_offset_reset="earliest",
            consumer_max_fetch_size=RECORD_BYTES_MAX,
            topic_allow_declare=False,
            topic_disable_leader=True,
            TableManager=_NoTables,
            web_enabled=False,
            datadir=str(settings.home / "faust"),
            store="memory://",
            key_serializer="raw",
            value_serializer="raw",
        )
        self.balances_settings = settings
        # An idempotent producer takes half a second to be given its id: let it begin at once.
        topic = TopicWriter(settings.kafka_bootstrap, settings.balances_topic)
        self.engines = Engines(settings, topic, ClickHouseSource(settings))
        self.owners = Owners(self.engines, settings.event_partitions, self._crash_soon)
        self.assigned = False
        self._crashes: set[asyncio.Task[None]] = set()
        deltas = self.topic(settings.deltas_topic, key_type=bytes, value_type=bytes)
        changes = self.topic(settings.entitlements_topic, key_type=bytes, value_type=bytes)
        self.agent(deltas, name="deltas")(_feeding(self.owners, DELTA_DECODER.decode))
        self.agent(changes, name="entitlements")(_feeding(self.owners, change_of))
        self.on_partitions_revoked.connect(self._leave)
        self.on_partitions_assigned.connect(self._take)
        self.on_before_shutdown.connect(self._close)

    @property
    def is_ready(self) -> bool:
        """Whether it is a member of the group and has taken all that it was given."""
        return self.assigned and self.owners.are_ready

    def _crash_soon(self, error: BaseException) -> None:
        self._crashes.add(asyncio.ensure_future(self.crash(error)))

    async def _leave(self, _app: faust.App, revoked: set[TP], **_: Any) -> None:
        await self.owners.leave({tp.partition for tp in revoked})

    async def _take(self, _app: faust.App, assigned: set[TP], **_: Any) -> None:
        given = {tp.partition for tp in assigned if tp.topic == self.balances_settings.deltas_topic}
        await self.owners.leave(set(self.owners.by_partition) - given)
        for partition in given:
            self.owners.of(partition)
        self.assigned = True

    async def _close(self, _app: faust.App, **_: Any) -> None:
        await self.owners.leave(set(self.owners.by_partition))
        await self.engines.close()


def _feeding(owners: Owners, decode: Callable[[bytes], Delta | Change]) -> Callable[[Any], Awaitable[None]]:
    """An agent that hands what it reads to the owner of its partition, which acknowledges it."""

    async def feed(stream: Any) -> None:
        async for event in stream.noack().events():
            await owners.of(event.message.partition).put(decode(event.value), event.ack)

    return feed
