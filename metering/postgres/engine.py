"""SQLAlchemy engines on psycopg 3, with bounded pools and waits."""

from typing import Any, Final

from sqlalchemy import Engine, create_engine
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from metering.settings import EngineSettings

POOL_SIZE: Final = 8
POOL_WAIT_SECONDS: Final = 5
CONNECT_TIMEOUT_SECONDS: Final = 5
STATEMENT_TIMEOUT_MS: Final = 30_000
LOCK_TIMEOUT_MS: Final = 10_000
IDLE_IN_TRANSACTION_TIMEOUT_MS: Final = 60_000


def async_engine(
    settings: EngineSettings, *, application: str, pool_size: int = POOL_SIZE, max_overflow: int = 0
) -> AsyncEngine:
    """An engine for asyncio code. A wait for a connection beyond 5 s raises sqlalchemy.exc.TimeoutError."""
    return create_async_engine(settings.sqlalchemy_url, **_options(application, pool_size, max_overflow))


def sync_engine(
    settings: EngineSettings, *, application: str, pool_size: int = POOL_SIZE, max_overflow: int = 0
) -> Engine:
    """The same for threads."""
    return create_engine(settings.sqlalchemy_url, **_options(application, pool_size, max_overflow))


def _options(application: str, pool_size: int, max_overflow: int) -> dict[str, Any]:
    limits = {
        "statement_timeout": STATEMENT_TIMEOUT_MS,
        "lock_timeout": LOCK_TIMEOUT_MS,
        "idle_in_transaction_session_timeout": IDLE_IN_TRANSACTION_TIMEOUT_MS,
    }
    return {
        "pool_size": pool_size,
        "max_overflow": max_overflow,
        "pool_timeout": POOL_WAIT_SECONDS,
        "pool_pre_ping": True,
        "connect_args": {
            "application_name": f"weighbridge-{application}",
            "connect_timeout": CONNECT_TIMEOUT_SECONDS,
            "options": " ".join(["-c timezone=UTC", *(f"-c {name}={ms}" for name, ms in limits.items())]),
        },
    }
