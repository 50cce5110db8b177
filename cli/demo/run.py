"""The demo's story: start, load, wait for what must come, show it."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, TypeVar

from msgspec import structs
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from cli.demo import report, report_invoice
from cli.demo.client import Api
from cli.demo.counts import event_counts
from cli.demo.load import Loaded, load, prepare_probe, probe_delays
from cli.demo.prepare import prepare, subscribe
from cli.demo.scenario import Scenario
from cli.demo.state import DemoState, Result, remember, state_of
from metering.domain.errors import Unavailable
from metering.domain.period import Interval, boundary
from metering.settings import EngineSettings

T = TypeVar("T")
WINDOW: Final = timedelta(days=27)  # fits into the shortest month
MONTH: Final = Interval.parse("MONTH")
PROBES: Final = 100
WAIT_SECONDS: Final = 180
_POLL_SECONDS: Final = 0.25


class Demo:
    """One run against the API at `url`, whose stack keeps its state in `home`."""

    def __init__(self, url: str, home: Path, scenario: Scenario, console: Console, *, seed: int) -> None:
        self._url = url
        self._home = home
        self._scenario = scenario
        self._console = console
        self._seed = seed

    async def run(self) -> bool:
        """Load, unless an earlier run did, and show everything. False if anything differs from what it must be."""
        async with Api(self._url) as api:
            state = state_of(self._home, self._scenario.name, now=datetime.now(UTC))
            if state.result is None:
                with self._progress() as progress:
                    result = await self._load(api, state, progress)
                remember(self._home, structs.replace(state, result=result))
            else:
                result = state.result
                self._console.print(f"{result.events:,} events are here from an earlier run.\n", style="dim")
            return await self._show(api, result)

    def _progress(self) -> Progress:
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        return Progress(*columns, console=self._console)

    async def _load(self, api: Api, state: DemoState, progress: Progress) -> Result:
        start = state.end - WINDOW
        creating = progress.add_task("create", total=6)

        def step(what: str) -> None:
            progress.update(creating, description=f"create {what}", advance=1)

        await prepare(api, self._scenario, start=start, step=step)
        probe = await prepare_probe(api)
        sending = progress.add_task("send events over HTTP", total=self._scenario.event_count)
        probing = progress.add_task("probe the delay to the balance", total=PROBES)
        events = self._scenario.events(start, state.end)
        loaded, delays = await asyncio.gather(
            load(api, events, seed=self._seed, progress=lambda n: progress.advance(sending, n)),
            probe_delays(api, probe, count=PROBES, progress=lambda: progress.advance(probing)),
        )
        progress.update(sending, total=loaded.sent)
        await self._counted(api, loaded, progress)
        await subscribe(api, self._scenario, start=boundary(state.end, MONTH, -1), step=step)
        progress.update(creating, description="created all", total=6, completed=6)
        return Result.of(loaded, delays)

    async def _counted(self, api: Api, loaded: Loaded, progress: Progress) -> None:
        counting = progress.add_task("events in the usage", total=loaded.expected.events)
        slug = self._scenario.summed[0]

        async def all_there() -> bool:
            total = await meter_total(api, slug)
            progress.update(counting, completed=int(total))
            return total >= loaded.expected.events

        await until(all_there, "all events in the usage")

    async def _show(self, api: Api, result: Result) -> bool:
        scenario, out = self._scenario, self._console
        counts = await event_counts(EngineSettings(home=self._home))
        totals = {meter["slug"]: await meter_total(api, meter["slug"]) for meter in scenario.meters}
        totals |= {slug: await distinct_total(api, slug) for slug in result.distinct}
        usage = {slug: await usage_by(api, slug, scenario.dimension) for slug in scenario.summed}
        balances = {key: await balance(api, key, scenario.limited_feature) for key in scenario.customers}
        for table in (
            report.events_table(result, counts),
            report.totals_table(result, totals),
            report.usage_table(scenario, usage),
            report.balances_table(scenario, balances),
            report.delay_table(result.delays),
        ):
            out.print(table, "")
        invoice = await self._invoice(api)
        proof = await api.get(f"/api/v1/billing/invoices/{invoice['id']}/verification")
        out.print(report_invoice.invoice_table(invoice))
        out.print(report_invoice.verification(proof))
        out.print()
        return bool(proof["isEqual"]) and report.is_right(result, totals)

    async def _invoice(self, api: Api) -> Mapping[str, Any]:
        """The invoice of the largest customer; it is issued as soon as usage has passed its cut everywhere."""
        usage = await api.get(f"/api/v1/meters/{self._scenario.summed[0]}/query", groupBy="subject")
        largest = max(usage["data"], key=lambda row: Decimal(row["value"]))["subject"]
        customer = await api.get(f"/api/v1/customers/{largest}")
        found = await api.get("/api/v1/billing/invoices", customers=customer["id"])
        if not found["items"]:
            found = {"items": await api.post("/api/v1/billing/invoices/invoice", {"customerId": customer["id"]})}
        invoice = found["items"][0]
        path = f"/api/v1/billing/invoices/{invoice['id']}"
        with self._console.status("") as status:

            async def issued() -> Mapping[str, Any] | None:
                now = await api.get(path)
                left = datetime.fromisoformat(now["collectionAt"]) - datetime.now(UTC)
                status.update(f"the invoice is issued as of its cut, {cut_text(left)}")
                return now if now["status"] == "issued" else None

            return await until(issued, "the invoice")


def cut_text(left: timedelta) -> str:
    """When the cut is, in words."""
    seconds = max(0, round(left.total_seconds()))
    return f"in {seconds} s" if seconds else "now: every partition is passing it"


async def until(ask: Callable[[], Awaitable[T | None]], what: str) -> T:
    """Ask until the answer is true; raises Unavailable after a while."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not (answer := await ask()):
        if time.monotonic() > deadline:
            raise Unavailable(f"waited {WAIT_SECONDS} s for {what}; `weighbridge status` and the logs say more")
        await asyncio.sleep(_POLL_SECONDS)
    return answer


async def meter_total(api: Api, slug: str) -> Decimal:
    """A meter's value over all time and customers."""
    answer = await api.get(f"/api/v1/meters/{slug}/query")
    return Decimal(answer["data"][0]["value"]) if answer["data"] else Decimal(0)


async def distinct_total(api: Api, slug: str) -> Decimal:
    """Distinct values of each customer, added up."""
    rows = await api.get(f"/api/v1/meters/{slug}/query", groupBy="subject")
    return sum((Decimal(row["value"]) for row in rows["data"]), Decimal(0))


async def usage_by(api: Api, slug: str, dimension: str) -> list[Mapping[str, Any]]:
    """A meter's values by subject and dimension."""
    answer = await api.get(f"/api/v1/meters/{slug}/query", groupBy=["subject", dimension])
    return list(answer["data"])


async def balance(api: Api, customer: str, feature: str) -> Mapping[str, Any]:
    """What a balance check answers."""
    answer: Mapping[str, Any] = await api.get(f"/api/v1/customers/{customer}/entitlements/{feature}/value")
    return answer
