"""The registry as the sink follows it: the newest revision within a fraction of a second, any older on demand."""

import threading
from collections import OrderedDict
from typing import Final

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from metering.domain.registry import Registry
from metering.postgres.registry import current_revision, load_registry
from sink import metrics

log = structlog.get_logger()
KEPT: Final = 8


class RegistryWatch:
    """Keeps the last few revisions. `start` loads the newest and follows it in a thread. Safe for threads."""

    def __init__(self, engine: Engine, seconds: float) -> None:
        self._engine = engine
        self._seconds = seconds
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Registry] = OrderedDict()
        self._newest: Registry | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="registry", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def loaded(self) -> bool:
        return self._newest is not None

    def newest(self) -> int | None:
        """The newest revision, asked for now; None if Postgres can't tell."""
        try:
            self._look()
        except SQLAlchemyError as error:
            log.warning("registry not read", error=str(error).splitlines()[0])
            return None
        return self._newest.revision if self._newest else None

    def at(self, revision: int) -> Registry | None:
        """The registry at `revision`; None if Postgres can't tell now."""
        with self._lock:
            kept = self._kept.get(revision)
        if kept is not None:
            return kept
        try:
            with self._engine.connect() as connection:
                registry = load_registry(connection, revision, base=self._newest)
        except SQLAlchemyError as error:
            log.warning("registry not read", revision=revision, error=str(error).splitlines()[0])
            return None
        self._keep(registry)
        return registry

    def _follow(self) -> None:
        while not self._stop.is_set():
            self.newest()
            self._stop.wait(self._seconds)

    def _look(self) -> None:
        with self._engine.connect() as connection:
            newest = current_revision(connection)
            if self._newest is not None and newest <= self._newest.revision:
                return
            registry = load_registry(connection, newest, base=self._newest)
        self._keep(registry)
        with self._lock:
            if self._newest is None or registry.revision > self._newest.revision:
                self._newest = registry
        metrics.REVISION.set(registry.revision)

    def _keep(self, registry: Registry) -> None:
        with self._lock:
            self._kept[registry.revision] = registry
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
