"""Where a command finds the engines: in the environment, else those of the local stack that runs in the home."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from metering.settings import EngineSettings

_URLS = {
    "postgres_url": "postgres",
    "clickhouse_url": "clickhouse",
    "kafka_bootstrap": "kafka",
}


def engine_settings() -> EngineSettings:
    """What the environment names wins; the rest is read from the running stack's state."""
    from deploy.local.state import read_state
    from metering.settings import EngineSettings

    settings = EngineSettings()
    state = read_state(settings.home.expanduser().absolute())
    found: dict[str, Any] = {
        field: state.urls[name]
        for field, name in _URLS.items()
        if state is not None and name in state.urls and f"WEIGHBRIDGE_{field.upper()}" not in os.environ
    }
    return EngineSettings(**found) if found else settings
