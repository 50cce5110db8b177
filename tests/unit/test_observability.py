"""Logs as JSON lines, and what a process without an HTTP API serves about itself."""

import json
import subprocess
import sys
from collections.abc import Iterator
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
from prometheus_client import Counter

from metering.observability import MetricsServer, serve_metrics

_LOGS = """
import logging, structlog
from metering.observability import configure_logging
configure_logging("sink", "info")
log = structlog.get_logger()
log.debug("unheard")
log.info("heard", event_id="käse")
logging.getLogger("other").warning("foreign %s", 1)
try:
    1 / 0
except ZeroDivisionError:
    log.exception("failed")
"""


def test_every_log_line_is_json_whoever_wrote_it() -> None:
    done = subprocess.run([sys.executable, "-c", _LOGS], capture_output=True, check=True)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [line["event"] for line in lines] == ["heard", "foreign 1", "failed"]
    assert {line["process"] for line in lines} == {"sink"}
    assert all(line["timestamp"].endswith("Z") for line in lines)
    assert lines[0]["event_id"] == "käse"
    assert "ZeroDivisionError" in lines[2]["exception"]


class Ready:
    now = True

    def __call__(self) -> bool:
        return self.now


@pytest.fixture
def ready() -> Ready:
    return Ready()


@pytest.fixture
def server(ready: Ready) -> Iterator[MetricsServer]:
    made = serve_metrics(0, ready)
    yield made
    made.close()


def get(server: MetricsServer, path: str) -> tuple[int, bytes]:
    try:
        with urlopen(f"http://127.0.0.1:{server.port}{path}", timeout=10) as answer:
            return answer.status, answer.read()
    except HTTPError as error:
        with error:
            return error.code, error.read()


def test_health_metrics_and_readiness(server: MetricsServer, ready: Ready) -> None:
    Counter("observability_test_total", "Of this test.").inc()
    assert get(server, "/healthz") == (200, b"ok\n")
    assert get(server, "/readyz") == (200, b"ready\n")
    ready.now = False
    assert get(server, "/readyz") == (503, b"not ready\n")
    assert b"observability_test_total 1.0" in get(server, "/metrics")[1]
    assert get(server, "/else")[0] == 404


def test_a_port_in_use_is_an_error_at_once(server: MetricsServer, ready: Ready) -> None:
    with pytest.raises(OSError, match="in use"):
        serve_metrics(server.port, ready)
