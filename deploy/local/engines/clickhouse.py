"""One ClickHouse: the embedded engine in a process of its own, behind ClickHouse's HTTP protocol."""

from __future__ import annotations

import sys
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from typing import TYPE_CHECKING

from deploy.local.engines.child import Command
from deploy.local.engines.home import one_line_for_disk_errors
from deploy.local.engines.ports import HOST, require_free
from deploy.local.errors import EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from deploy.local.engines.ports import Ports

_PING_TIMEOUT_SECONDS = 2


class ClickHouse:
    """The ClickHouse process of a home."""

    name = "clickhouse"

    def __init__(self, home: Path, ports: Ports) -> None:
        self._home, self._ports = home, ports
        self._data = home / "clickhouse"
        self.log = home / "log" / "clickhouse.log"

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self._ports.clickhouse}"

    def prepare(self) -> Command:
        """Make the data folder and return how to start the process."""
        if find_spec("chdb") is None:
            raise EngineError("no ClickHouse: install the package chdb (`make install`)")
        with one_line_for_disk_errors(self._home):
            self._data.mkdir(exist_ok=True)
        argv = [sys.executable, "-m", "deploy.local.clickhouse"]
        argv += ["--data", str(self._data), "--host", HOST, "--port", str(self._ports.clickhouse)]
        return Command(self.name, argv, self.log)

    def check_ports(self) -> None:
        require_free(self._ports.clickhouse, "ClickHouse", "WEIGHBRIDGE_CLICKHOUSE_PORT")

    def ready(self) -> bool:
        connection = HTTPConnection(HOST, self._ports.clickhouse, timeout=_PING_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/ping")
            return connection.getresponse().read() == b"Ok.\n"
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()
