"""A trace of requests to an LLM service, billed by tokens.

The form is that of the Azure LLM inference traces (Patel et al., "Splitwise", ISCA 2024): a CSV with the columns
TIMESTAMP, ContextTokens, GeneratedTokens. They name no customer, model or region; a seeded rule gives each request
its own.
"""

import csv
import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Final

from cli.demo.scenario import Measured, Scenario, monthly_plan, move, tiered
from metering.domain.errors import InvalidInput

COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
CUSTOMERS: Final = {
    "acme": "Acme Robotics",
    "birch": "Birch & Sons",
    "cobalt": "Cobalt Games",
    "delphi": "Delphi Law",
    "ember": "Ember Health",
    "fjord": "Fjord Shipping",
    "garnet": "Garnet Bank",
    "heron": "Heron Press",
}
MODELS: Final = (("large", 2), ("medium", 5), ("small", 9))
REGIONS: Final = (("eu-north", 3), ("us-east", 5), ("ap-south", 2))


def instant(text: str) -> datetime:
    """`2023-11-16 18:17:03.9799600`, UTC, cut to the microsecond (the trace has 100 ns digits)."""
    head, _, fraction = text.partition(".")
    whole = datetime.strptime(head, "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    return whole + timedelta(microseconds=int(fraction[:6].ljust(6, "0")))


def read_trace(path: Path) -> list[tuple[datetime, int, int]]:
    """(time, prompt tokens, generated tokens) in the order of time; raises InvalidInput naming the line."""
    rows = []
    try:
        with path.open(newline="") as file:
            reader = csv.DictReader(file)
            if not set(COLUMNS) <= set(reader.fieldnames or ()):
                raise InvalidInput(f"{path}: needs the columns {', '.join(COLUMNS)}")
            for row in reader:
                try:
                    rows.append((instant(row[COLUMNS[0]]), int(row[COLUMNS[1]]), int(row[COLUMNS[2]])))
                except (ValueError, TypeError) as error:
                    raise InvalidInput(f"{path}, line {reader.line_num}: {error}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"can't read the trace: {error}") from error
    if not rows:
        raise InvalidInput(f"{path}: no requests in it")
    rows.sort(key=lambda row: row[0])
    return rows


def _events(
    rows: list[tuple[datetime, int, int]], name: str, seed: int, start: datetime, end: datetime
) -> Iterator[Measured]:
    chance = random.Random(seed)  # noqa: S311 - a reproducible choice, no secret
    keys = list(CUSTOMERS)
    weights = [1 / (rank + 1) for rank in range(len(keys))]
    span = (rows[0][0], rows[-1][0])
    for number, (at, prompt, generated) in enumerate(rows):
        customer = chance.choices(keys, weights)[0]
        model = chance.choices([m for m, _ in MODELS], [w for _, w in MODELS])[0]
        region = chance.choices([r for r, _ in REGIONS], [w for _, w in REGIONS])[0]
        event = {
            "specversion": "1.0",
            "id": f"{name}-{number}",
            "source": "llm-gateway",
            "type": "llm.request",
            "subject": customer,
            "time": move(at, span, (start, end)).isoformat().replace("+00:00", "Z"),
            "data": {"model": model, "region": region, "prompt_tokens": prompt, "completion_tokens": generated},
        }
        amounts: dict[str, Decimal | str | None] = {
            "requests": Decimal(1),
            "prompt_tokens": Decimal(prompt),
            "completion_tokens": Decimal(generated),
            "regions": region,
        }
        yield Measured(event, customer, model, amounts)


def trace(path: Path, *, seed: int) -> Scenario:
    """The scenario of one trace file. Customers, models and regions are drawn by `seed`."""
    rows = read_trace(path)
    dimensions = {"model": "$.model", "region": "$.region"}

    def meter(slug: str, name: str, aggregation: str, value: str | None = None) -> dict[str, object]:
        body: dict[str, object] = {
            "slug": slug,
            "name": name,
            "eventType": "llm.request",
            "aggregation": aggregation,
            "groupBy": {key: path for key, path in dimensions.items() if path != value},
        }
        return body | ({"valueProperty": value} if value else {})

    return Scenario(
        name=f"trace {path.stem}",
        title=f"LLM requests of {path.name}, billed by tokens",
        source="Azure LLM inference trace form (Patel et al., ISCA 2024); customers, models, regions are made up",
        customers=CUSTOMERS,
        meters=(
            meter("requests", "Requests", "COUNT"),
            meter("prompt_tokens", "Prompt tokens", "SUM", "$.prompt_tokens"),
            meter("completion_tokens", "Generated tokens", "SUM", "$.completion_tokens"),
            meter("regions", "Regions used", "UNIQUE_COUNT", "$.region"),
        ),
        features=(
            {"key": "requests", "name": "Requests", "meterSlug": "requests"},
            {"key": "prompt_tokens", "name": "Prompt tokens", "meterSlug": "prompt_tokens"},
            {"key": "completion_tokens", "name": "Generated tokens", "meterSlug": "completion_tokens"},
        ),
        limited_feature="completion_tokens",
        entitlement={"type": "metered", "issueAfterReset": sum(generated for _, _, generated in rows) // 10},
        plan=monthly_plan(
            "tokens_standard",
            "Tokens standard",
            "49",
            {
                "prompt_tokens": tiered("graduated", ("1000000", "0.000003", None), (None, "0.0000025", None)),
                "completion_tokens": tiered("graduated", ("100000", "0.000015", None), (None, "0.0000125", None)),
                "requests": tiered("volume", ("1000", "0.002", None), (None, "0.001", "1")),
            },
        ),
        dimension="model",
        summed=("requests", "prompt_tokens", "completion_tokens"),
        event_count=len(rows),
        events=partial(_events, rows, path.stem, seed),
    )
