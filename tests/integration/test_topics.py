from pathlib import Path

import pytest
from confluent_kafka.admin import AdminClient, ConfigResource

from metering.domain.errors import InvalidInput, Unavailable
from metering.kafka.topics import ensure_topics
from metering.settings import EngineSettings


def settings_of(bootstrap: str, prefix: str, **changes: object) -> EngineSettings:
    return EngineSettings(kafka_bootstrap=bootstrap, topic_prefix=prefix, home=Path("unused"), **changes)


def test_topics_are_made_once_and_kept_as_they_must_be(kafka_bootstrap: str, topic_prefix: str) -> None:
    settings = settings_of(kafka_bootstrap, topic_prefix, event_partitions=3, balance_partitions=2)
    ensure_topics(settings)
    ensure_topics(settings)
    admin = AdminClient({"bootstrap.servers": kafka_bootstrap})
    found = admin.list_topics(timeout=30).topics
    assert {name: len(topic.partitions) for name, topic in found.items() if name.startswith(topic_prefix)} == {
        settings.events_topic: 3,
        settings.deltas_topic: 2,
        settings.entitlements_topic: 2,
        settings.balances_topic: 2,
    }
    names = [settings.events_topic, settings.balances_topic]
    asked = admin.describe_configs([ConfigResource(ConfigResource.Type.TOPIC, name) for name in names])
    events, balances = (asked[resource].result(30) for resource in asked)
    assert events["message.timestamp.type"].value == "LogAppendTime"
    assert balances["cleanup.policy"].value == "compact"
    assert balances["min.compaction.lag.ms"].value == str(24 * 3600 * 1000)


def test_another_number_of_partitions_is_refused(kafka_bootstrap: str, topic_prefix: str) -> None:
    ensure_topics(settings_of(kafka_bootstrap, topic_prefix, balance_partitions=2))
    with pytest.raises(InvalidInput, match="has 2 partitions, but the settings say 5"):
        ensure_topics(settings_of(kafka_bootstrap, topic_prefix, balance_partitions=5))


def test_kafka_away_is_one_clear_line(topic_prefix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metering.kafka.topics._TIMEOUT_SECONDS", 0.5)
    with pytest.raises(Unavailable, match="did not make or list the topics"):
        ensure_topics(settings_of("127.0.0.1:1", topic_prefix))
