"""Topics for a row of the benchmark, named so that rows don't meet."""

import secrets
from collections.abc import Mapping

from confluent_kafka.admin import AdminClient, NewTopic


def new_prefix() -> str:
    return f"bench-{secrets.token_hex(4)}."


def create_topics(bootstrap: str, partitions: Mapping[str, int]) -> None:
    """Create topics, by name with their number of partitions, and wait until they are there."""
    admin = AdminClient({"bootstrap.servers": bootstrap})  # must outlive the futures
    for future in admin.create_topics([NewTopic(name, count, 1) for name, count in partitions.items()]).values():
        future.result(30)


def drop_topics(bootstrap: str, names: list[str]) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap})
    for future in admin.delete_topics(names).values():
        future.result(30)
