"""The local engines, as clients see them."""

from __future__ import annotations

import clickhouse_connect
import psycopg
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic


def test_postgres_is_18_and_durable(postgres_url):
    with psycopg.connect(postgres_url) as connection:
        version, fsync = connection.execute(
            "SELECT current_setting('server_version_num'), current_setting('fsync')"
        ).fetchone()
    assert version.startswith("18")
    assert fsync == "on"


def test_clickhouse_database_is_empty_and_own(clickhouse_database):
    with clickhouse_connect.get_client(
        host=clickhouse_database.host, port=clickhouse_database.port, database=clickhouse_database.name
    ) as client:
        assert client.command("SELECT currentDatabase()") == clickhouse_database.name
        assert client.query("SHOW TABLES").row_count == 0


def test_kafka_keeps_what_it_acknowledged(kafka_bootstrap, topic_prefix):
    topic = f"{topic_prefix}events"
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    admin.create_topics([NewTopic(topic, num_partitions=1)])[topic].result(20)
    producer = Producer({"bootstrap.servers": kafka_bootstrap, "enable.idempotence": True})
    producer.produce(topic, b"one")
    assert producer.flush(20) == 0
    consumer = Consumer(
        {"bootstrap.servers": kafka_bootstrap, "group.id": f"{topic_prefix}group", "auto.offset.reset": "earliest"}
    )
    try:
        consumer.subscribe([topic])
        message = consumer.poll(20)
        assert message.value() == b"one"
        assert message.timestamp()[0] == 2  # LogAppendTime
    finally:
        consumer.close()
