"""`/`: what is served, how it goes, two releases side by side for a person to judge, and what a tabular model says of a
row that a person changes. Plain files, no build step."""

import asyncio
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response
from starlette.staticfiles import StaticFiles

import llmops
from llmops.errors import StoreUnavailable
from llmops.keys import Key
from llmops.processes import run_blocking
from llmops.production_log import LogRecord, ProductionLog
from llmops.versions import Release, TabularVersion
from service.access import ANONYMOUS
from service.gateway import Gateway
from service.schemas import ErrorReply

_FOLDER = Path(__file__).with_name("page")
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}

RECENT = timedelta(minutes=5)
MOST_RECORDS = 1000
"""Records that the recent figures are made of; under more traffic they cover less than `RECENT`."""
FRESH_SECONDS = 2.0
UNTOLD = "why is told to admins and to keys of all apps"
"""Reasons hold paths and upstream URLs, which are not one app's business."""


class Figures(BaseModel):
    """Recent traffic of one release, or of all. seconds: the time it covers. Times and
    tokens are of good answers alone; None where nobody measured or counted them."""

    seconds: float
    requests: int
    requests_per_minute: float
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    first_token_p50_ms: float | None
    tokens_per_second: float | None


class ReleaseStatus(BaseModel):
    """A release that can be asked. variables: what its prompt needs beside the question. recent: None without any."""

    release: str
    aliases: list[str]
    prompt: str
    model: str
    variables: list[str]
    recent: Figures | None


class VoteStatus(BaseModel):
    """Votes between two releases."""

    a: str
    b: str
    wins_a: int
    wins_b: int
    ties: int


class AppStatus(BaseModel):
    """An app, its releases newest first, and its traffic policy (shares of 0 to 1) where it has one."""

    app: str
    policy: dict[str, Any] | None
    releases: list[ReleaseStatus]
    votes: list[VoteStatus]


class TabularVersionStatus(BaseModel):
    """A version of a tabular model, as `POST /v1/predict/{model}` takes it: `bike@2`."""

    version: str
    aliases: list[str]


class TabularStatus(BaseModel):
    """A tabular model and its versions, newest first."""

    model: str
    versions: list[TabularVersionStatus]


class Links(BaseModel):
    """Where else to look. mlflow: None where the registry is a file, which no server shows."""

    mlflow: str | None


class Status(BaseModel):
    """What is served and how it goes. problem: why recent figures and votes are missing; None when they are not."""

    version: str
    ready: bool
    reasons: list[str]
    apps: list[AppStatus]
    tabular: list[TabularStatus]
    recent: Figures | None
    problem: str | None
    links: Links


def page_router(gateway: Gateway) -> APIRouter:
    """The page's routes. `/` and its files are open to everybody; `/status.json` shows a caller the apps it may use."""
    router = APIRouter(tags=["page"])
    files, recent = _PageFiles(directory=_FOLDER), _Recent(gateway.production_log)
    router.mount("/page", files)
    uri = gateway.settings.resolved_tracking_uri
    mlflow = uri if uri.startswith(("http://", "https://")) and "@" not in uri else None

    @router.get("/", include_in_schema=False, response_class=Response)
    async def page(request: Request) -> Response:
        return await files.get_response("index.html", request.scope)

    @router.get("/status.json", responses={"4XX": {"model": ErrorReply}, "5XX": {"model": ErrorReply}})
    async def status(request: Request) -> Status:
        """Releases, tabular models, traffic policies and recent traffic."""
        caller: Key = getattr(request.state, "caller", ANONYMOUS)
        apps = {app: items for app, items in gateway.keeper.snapshot.apps.items() if caller.may_use(app)}
        seen = await recent.look(list(apps))
        policies = gateway.keeper.snapshot.registered.policies
        problems = gateway.problems()
        records = [item for item in seen.records if caller.may_use(item.app or None)]
        return Status(
            version=llmops.__version__,
            ready=not problems,
            reasons=problems if caller.sees_details else [UNTOLD][: len(problems)],
            apps=[
                AppStatus(
                    app=app,
                    policy=policies[app].to_mapping() if app in policies else None,
                    releases=[_release(item, records, seen.seconds) for item in reversed(items)],
                    votes=seen.votes.get(app, []),
                )
                for app, items in apps.items()
            ],
            tabular=[
                _tabular(model, versions)
                for model, versions in gateway.keeper.snapshot.registered.tabular.items()
                if versions and caller.may_use(model)
            ],
            recent=figures(records, seen.seconds),
            problem=seen.problem,
            links=Links(mlflow=mlflow if caller.sees_details else None),
        )

    return router


def figures(records: Sequence[LogRecord], seconds: float) -> Figures | None:
    """Of the records of so many seconds; None without any."""
    if not records:
        return None
    good = [record for record in records if record.outcome == "ok"]
    made = [record.tokens_out for record in good]
    first = [record.first_token_ms for record in good if record.first_token_ms is not None]
    latencies = [record.latency_ms for record in good if record.latency_ms is not None]
    return Figures(
        seconds=round(seconds, 1),
        requests=len(records),
        requests_per_minute=round(60 * len(records) / seconds, 2),
        errors=sum(record.status >= 500 for record in records),
        p50_ms=quantile(latencies, 0.5),
        p95_ms=quantile(latencies, 0.95),
        first_token_p50_ms=quantile(first, 0.5),
        tokens_per_second=None if None in made else round(sum(filter(None, made)) / seconds, 2),
    )


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of all values does not exceed; None without values."""
    if not values:
        return None
    position = max(0, -int(-share * len(values) // 1) - 1)
    return round(sorted(values)[position], 1)


class _Recent:
    """The log's newest records and votes, read by one reader at a time and good for a moment."""

    def __init__(self, log: ProductionLog) -> None:
        self._log = log
        self._reading = asyncio.Lock()
        self._read_at = -FRESH_SECONDS
        self._apps: frozenset[str] = frozenset()
        self.seconds = RECENT.total_seconds()
        self.records: list[LogRecord] = []
        self.votes: dict[str, list[VoteStatus]] = {}
        self.problem: str | None = None

    async def look(self, apps: Sequence[str]) -> Self:
        """Reads again what is older than `FRESH_SECONDS`. apps: whose votes are wanted."""
        async with self._reading:
            known = self._apps >= set(apps)
            if not known or time.monotonic() - self._read_at >= FRESH_SECONDS:
                self._apps |= frozenset(apps)
                now, self.seconds, self.problem = datetime.now(UTC), RECENT.total_seconds(), None
                try:
                    self.records, self.votes = await run_blocking(
                        lambda: self._from_log(now - RECENT), name="recent traffic"
                    )
                    if len(self.records) == MOST_RECORDS:
                        self.seconds = max(1.0, (now - self.records[0].at).total_seconds())
                except StoreUnavailable:
                    self.records, self.votes, self.problem = [], {}, "the production log cannot be read"
                self._read_at = time.monotonic()
        return self

    def _from_log(self, since: datetime) -> tuple[list[LogRecord], dict[str, list[VoteStatus]]]:
        records = self._log.read(since=since, limit=MOST_RECORDS, newest=True, texts=False)
        votes = {
            app: [
                VoteStatus(a=a, b=b, wins_a=count.a, wins_b=count.b, ties=count.tie)
                for (a, b), count in self._log.votes(app).items()
            ]
            for app in self._apps
        }
        return records, votes


def _release(release: Release, records: Sequence[LogRecord], seconds: float) -> ReleaseStatus:
    template = release.prompt.template
    return ReleaseStatus(
        release=release.ref,
        aliases=list(release.aliases),
        prompt=release.prompt.ref,
        model=release.model.ref,
        variables=sorted(template.variables - {template.input_variable}),
        recent=figures([record for record in records if record.release == release.ref], seconds),
    )


def _tabular(model: str, versions: Sequence[TabularVersion]) -> TabularStatus:
    named = [TabularVersionStatus(version=each.ref, aliases=list(each.aliases)) for each in reversed(versions)]
    return TabularStatus(model=model, versions=named)


class _PageFiles(StaticFiles):
    """Plain files, under the page's own policy."""

    def file_response(self, *arguments: Any, **options: Any) -> Response:
        response = super().file_response(*arguments, **options)
        response.headers.update(_HEADERS)
        return response
