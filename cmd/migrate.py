"""Bring all engines to what this version needs: Postgres tables, ClickHouse tables, Kafka topics, predefined meters.

Safe to run again and beside another run. Exit code 0: everything is there; 1: one line on standard error says what
failed; 2: the settings are not valid.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Final

from pydantic import ValidationError

from billing.postgres import migrate as billing_migrate
from metering.clickhouse.schema import create_all
from metering.kafka.topics import ensure_topics
from metering.postgres import migrate as metering_migrate
from metering.postgres.predefined import create_predefined_meters
from metering.settings import EngineSettings

# What is made, and the function that makes it, each doing nothing the second time.
STEPS: Final[tuple[tuple[str, Callable[[EngineSettings], object]], ...]] = (
    ("Postgres tables of metering", metering_migrate.upgrade),
    ("Postgres tables of billing", billing_migrate.upgrade),
    ("ClickHouse tables", create_all),
    ("Kafka topics", ensure_topics),
    ("predefined meters", create_predefined_meters),
)


def run(settings: EngineSettings, report: Callable[[str], None]) -> None:
    """Do all steps; raises _Failed with the name of the step that failed."""
    step = "Postgres"
    try:
        if metering_migrate.create_database(settings):
            report("made the Postgres database")
        with metering_migrate.migration_lock(settings):
            for step, make in STEPS:
                make(settings)
                report(f"{step}: ready")
    except Exception as error:
        raise _Failed(f"migrate: {step}: {_one_line(error)}") from error


class _Failed(Exception):
    """A step failed; the message is the one line to show."""


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:500] or type(error).__name__


def main() -> int:
    parser = argparse.ArgumentParser(prog="migrate", description=__doc__)
    parser.add_argument("--check-config", action="store_true", help="validate the settings and exit")
    parser.add_argument("--quiet", action="store_true")
    arguments = parser.parse_args()
    try:
        settings = EngineSettings()
    except ValidationError as error:
        print(f"migrate: settings: {_one_line(error)}", file=sys.stderr)
        return 2
    if arguments.check_config:
        return 0
    try:
        run(settings, (lambda _: None) if arguments.quiet else print)
    except _Failed as failed:
        print(failed, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
