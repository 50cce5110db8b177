"""LISTEN on Postgres channels, on a connection of its own that comes back by itself."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

import psycopg
import structlog
from psycopg import sql

_log: Final = structlog.get_logger()

RECONNECT_SECONDS: Final = 0.5
PROBE_SECONDS: Final = 10.0


class Listener:
    """Calls `channels[name](payload)` for each notification.

    `listening` is True while nothing can be missed; `on_lost` is called when that ends, so that what is remembered can
    be forgotten.
    """

    def __init__(self, url: str, channels: Mapping[str, Callable[[str], None]], on_lost: Callable[[], None]) -> None:
        self._url = url
        self._channels = dict(channels)
        self._on_lost = on_lost
        self.listening = False

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                _log.warning("postgres_listen_lost", detail=str(error).strip())
            finally:
                if self.listening:
                    self.listening = False
                    self._on_lost()
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _listen(self) -> None:
        async with await psycopg.AsyncConnection.connect(self._url, autocommit=True, connect_timeout=5) as connection:
            for channel in self._channels:
                await connection.execute(sql.SQL("LISTEN {}").format(sql.Identifier(channel)))
            self.listening = True
            while True:
                async for notification in connection.notifies(timeout=PROBE_SECONDS):
                    self._channels[notification.channel](notification.payload)
                await connection.execute("SELECT 1")  # finds a connection that is gone without a word
