"""Bring all engines to what this version needs: Postgres tables, ClickHouse tables, Kafka topics, predefined meters.

Safe to run again and beside another run. Exit code 0: everything is there; 1: one line on standard error says what
failed; 2: the settings are not valid.
"""

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Callable

from pydantic import ValidationError

from metering.postgres import migrate as metering_migrate
from metering.settings import EngineSettings

Step = Callable[[EngineSettings], object]
# What is made, and the function that makes it, each doing nothing the second time.
STEPS = (
    ("Postgres tables of metering", "metering.postgres.migrate", "upgrade"),
    ("Postgres tables of billing", "billing.postgres.migrate", "upgrade"),
    ("ClickHouse tables", "metering.clickhouse.schema", "create_all"),
    ("Kafka topics", "metering.kafka.topics", "ensure_topics"),
    ("predefined meters", "metering.postgres.predefined", "create_predefined_meters"),
)


def run(settings: EngineSettings, report: Callable[[str], None]) -> None:
    """Do all steps; raises _Failed with the name of the step that failed."""
    step = "Postgres"
    try:
        if metering_migrate.create_database(settings):
            report("made the Postgres database")
        with metering_migrate.migration_lock(settings):
            for step, module, function in STEPS:
                if importlib.util.find_spec(module) is None:
                    continue
                do: Step = getattr(importlib.import_module(module), function)
                do(settings)
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
