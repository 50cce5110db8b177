"""The four processes of the product: scripts of `cmd/`, told of the engines by their environment."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.local.engines.child import Command
from deploy.local.engines.ports import HOST, require_free
from deploy.local.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from deploy.local.engines import Engines
    from deploy.local.settings import StackSettings

# Others for tests of the supervisor itself.
SCRIPTS = Path(os.environ.get("WEIGHBRIDGE_SCRIPTS") or Path(__file__).parents[2] / "cmd")
_PROBE_TIMEOUT_SECONDS = 1
_MIGRATE_TIMEOUT_SECONDS = 180


@dataclass(frozen=True, slots=True)
class Process:
    """One process: ready when `/readyz` on its port answers 200. Has the form of `engines.handle.Engine`."""

    name: str
    argv: tuple[str, ...]
    log: Path
    env: Mapping[str, str]
    host: str
    port: int
    port_setting: str

    def check_ports(self) -> None:
        require_free(self.port, self.name, self.port_setting, host=self.host)

    def prepare(self) -> Command:
        return Command(self.name, self.argv, self.log, env=self.env)

    def ready(self) -> bool:
        connection = HTTPConnection(self.host, self.port, timeout=_PROBE_TIMEOUT_SECONDS)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200  # noqa: PLR2004 - OK
        except (OSError, HTTPException):
            return False
        finally:
            connection.close()


def environment(settings: StackSettings, engines: Engines) -> dict[str, str]:
    """What tells a process of its engines, in names of its own settings."""
    return {
        "WEIGHBRIDGE_HOME": str(engines.home),
        "WEIGHBRIDGE_KAFKA_BOOTSTRAP": engines.kafka_bootstrap,
        "WEIGHBRIDGE_POSTGRES_URL": engines.postgres_url,
        "WEIGHBRIDGE_CLICKHOUSE_URL": engines.clickhouse_url,
        "WEIGHBRIDGE_API_HOST": settings.api_host,
        "WEIGHBRIDGE_API_PORT": str(settings.api_port),
        "WEIGHBRIDGE_SINK_METRICS_PORT": str(settings.sink_metrics_port),
        "WEIGHBRIDGE_BALANCES_METRICS_PORT": str(settings.balances_metrics_port),
        "WEIGHBRIDGE_BILLING_METRICS_PORT": str(settings.billing_metrics_port),
        "PYTHONUNBUFFERED": "1",
    }


def processes(settings: StackSettings, engines: Engines, scripts: Path = SCRIPTS) -> list[Process]:
    """The four of the design, in the order in which they are shown. Raises `EngineError` if a script is missing."""
    env = environment(settings, engines)
    listeners = {
        "api": (settings.api_host, settings.api_port, "WEIGHBRIDGE_API_PORT"),
        "sink": (HOST, settings.sink_metrics_port, "WEIGHBRIDGE_SINK_METRICS_PORT"),
        "balances": (HOST, settings.balances_metrics_port, "WEIGHBRIDGE_BALANCES_METRICS_PORT"),
        "billing": (HOST, settings.billing_metrics_port, "WEIGHBRIDGE_BILLING_METRICS_PORT"),
    }
    found = []
    for name, (host, port, setting) in listeners.items():
        script = scripts / f"run_{name}.py"
        if not script.exists():
            raise EngineError(f"no script for {name}: {script}; run this from a checkout")
        log = engines.home / "log" / f"{name}.log"
        found.append(Process(name, (sys.executable, str(script)), log, env, host, port, setting))
    return found


def migrate(settings: StackSettings, engines: Engines, scripts: Path = SCRIPTS) -> None:
    """Make tables and topics, or nothing if they are there. Raises `EngineError` with the script's own line."""
    argv = [sys.executable, str(scripts / "migrate.py")]
    env = os.environ | environment(settings, engines)
    try:
        done = subprocess.run(  # noqa: S603 - our own script
            argv, env=env, capture_output=True, text=True, timeout=_MIGRATE_TIMEOUT_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"migrate is not done after {_MIGRATE_TIMEOUT_SECONDS} s") from error
    (engines.home / "log" / "migrate.log").write_text(done.stdout + done.stderr)
    if done.returncode:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no message"]
        raise EngineError(f"{lines[-1]} (see {engines.home / 'log' / 'migrate.log'})")
