"""The fence rows in Postgres: table `sink_plans`."""

from dataclasses import asdict

import structlog
from sqlalchemy import Engine, Executable, func, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import SQLAlchemyError

from metering.postgres.tables import sink_plans
from sink.plan import NO_PLAN, Answer, Plan

log = structlog.get_logger()


class PostgresFence:
    """The fence row of each partition of one topic. Safe for threads. Any failure is an unclear answer."""

    def __init__(self, engine: Engine, topic: str) -> None:
        self._engine = engine
        self._topic = topic

    def read(self, partition: int) -> Plan | Answer:
        c = sink_plans.c
        query = select(c.epoch, c.a, c.end, c.revision, c.ingest_floor, c.digest).where(
            c.topic == self._topic, c.partition == partition
        )
        try:
            with self._engine.connect() as connection:
                row = connection.execute(query).one_or_none()
        except SQLAlchemyError as error:
            return self._unclear("read", partition, error)
        if row is None:
            return NO_PLAN
        return Plan(row.epoch, row.a, row.end, row.revision, row.ingest_floor, bytes(row.digest or b""))

    def compare_and_set(self, partition: int, expected: Plan, new: Plan) -> Answer:
        """Write `new` if the row's (epoch, a, end) are those of `expected`, in one statement."""
        try:
            with self._engine.begin() as connection:
                changed = connection.execute(self._statement(partition, expected, new)).rowcount
        except SQLAlchemyError as error:
            return self._unclear("compare and set", partition, error)
        return Answer.DONE if changed else Answer.REFUSED

    def _statement(self, partition: int, expected: Plan, new: Plan) -> Executable:
        c = sink_plans.c
        if expected == NO_PLAN:
            row = {"topic": self._topic, "partition": partition, **asdict(new)}
            return upsert(sink_plans).values(row).on_conflict_do_nothing()
        return (
            update(sink_plans)
            .where(
                c.topic == self._topic,
                c.partition == partition,
                c.epoch == expected.epoch,
                c.a == expected.a,
                c.end == expected.end,
            )
            .values(**asdict(new), updated_at=func.now())
        )

    def _unclear(self, step: str, partition: int, error: SQLAlchemyError) -> Answer:
        log.warning("fence unclear", step=step, partition=partition, error=str(error).splitlines()[0])
        return Answer.UNCLEAR
