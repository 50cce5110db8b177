"""`weighbridge demo`, as a new user runs it: on flights, and on traces of LLM requests."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local.engines.ports import free_ports

DATA = Path(__file__).parents[3] / "shared" / "data"
TRACES = ("azure_llm_code_2023.csv", "azure_llm_conversation_2023.csv")
PORTS = (
    "API",
    "POSTGRES",
    "CLICKHOUSE",
    "KAFKA",
    "KAFKA_CONTROLLER",
    "SINK_METRICS",
    "BALANCES_METRICS",
    "BILLING_METRICS",
)
pytestmark = [pytest.mark.engines, pytest.mark.timeout(600)]


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A home and ports of its own."""
    ports = {f"WEIGHBRIDGE_{name}_PORT": str(port) for name, port in zip(PORTS, free_ports(len(PORTS)), strict=True)}
    environment = os.environ | ports | {"WEIGHBRIDGE_HOME": str(tmp_path / "home"), "COLUMNS": "160"}
    yield environment
    subprocess.run([sys.executable, "-m", "cli.main", "down"], env=environment, capture_output=True, check=False)


def demo(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "cli.main", "demo", "--once", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500, check=False)


def assert_proven(shown: subprocess.CompletedProcess[str]) -> None:
    assert shown.returncode == 0, shown.stdout[-6000:] + shown.stderr[-3000:]
    assert "DIFFERENT" not in shown.stdout
    assert "Proven." in shown.stdout
    assert shown.stdout.count("equal") >= 4


def test_flights_end_in_a_proven_invoice_and_a_second_run_finds_them(environment: dict[str, str]) -> None:
    shown = demo(environment)
    assert_proven(shown)
    for figure in ("27,004", "27,188,805", "4,070,239", "3,148"):  # counted by an awk script from the package's CSV
        assert figure in shown.stdout
    again = demo(environment)
    assert_proven(again)
    assert "from an earlier run" in again.stdout


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_of_llm_requests_ends_in_a_proven_invoice(name: str, environment: dict[str, str]) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"needs the trace {name} of the Azure Public Dataset beside the project")
    shown = demo(environment, "--trace", str(DATA / name))
    assert_proven(shown)
    with (DATA / name).open() as file:
        rows = list(csv.DictReader(file))
    for figure in (len(rows), sum(int(r["ContextTokens"]) for r in rows), sum(int(r["GeneratedTokens"]) for r in rows)):
        assert f"{figure:,}" in shown.stdout


def test_a_trace_that_is_none_gives_one_clear_line(environment: dict[str, str], tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:17:03.9799600,12,x\n")
    shown = demo(environment, "--trace", str(path))
    assert shown.returncode == 1
    assert "line 2" in shown.stderr
    assert "Traceback" not in shown.stderr
