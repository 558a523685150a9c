"""What a load needs, computed from the figures measured here and from the inputs, and the tables of docs/scale.md."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.scale.queueing import Worker, poisson, simulate
from llmops.settings import Settings

FOLDER = Path(__file__).parent
FIGURES, INPUTS = FOLDER / "figures.json", FOLDER / "inputs.toml"
PAGE = FOLDER.parents[1] / "docs" / "scale.md"
HOURS = 730
"""Of a month."""

Figures = Mapping[str, Any]


def read() -> tuple[Figures, Figures]:
    """The figures and the inputs."""
    return json.loads(FIGURES.read_text(encoding="utf-8")), tomllib.loads(INPUTS.read_text(encoding="utf-8"))


def fastest(worker: Worker, seconds: float, pieces: int, most_busy: float) -> float:
    """Requests a second at which one worker uses so much of its core, found by halving."""
    low, high, requests = 1.0, 1000 / worker.least(pieces), min(2000, 100_000 // (pieces + 1))
    while high - low > 0.02 * high:
        rate = (low + high) / 2
        arrivals = poisson(rate, requests, seed=1)
        upstream = np.random.default_rng(2).exponential(1000 * seconds, len(arrivals))
        found = simulate(worker, arrivals, upstream, pieces)
        busy = found.busy * (found.ended / arrivals[-1])  # the last answers come when nothing arrives any more
        low, high = (rate, high) if busy <= most_busy else (low, rate)
    return low


def needed(figures: Figures, inputs: Figures) -> dict[str, float]:
    """What the inputs' traffic needs, by name."""
    traffic, limits, prices = inputs["traffic"], inputs["limits"], inputs["prices"]
    tokens, share, seconds = traffic["answer_tokens"], traffic["streamed_share"], traffic["answer_seconds"]
    whole, streamed = (
        fastest(Worker(**figures["queue"][kind]["worker"]), seconds, pieces, limits["utilisation"])
        for kind, pieces in (("whole", 0), ("streamed", tokens))
    )
    by_core = 1 / ((1 - share) / whole + share / streamed)  # times on the core add up, so rates do harmonically
    by_places = limits["waiting_share"] * Settings().max_waiting / seconds
    peak, rows = traffic["peak_requests_per_second"], traffic["logged_rows_a_month"]
    pods, log = math.ceil(peak / min(by_core, by_places)) + 1, figures["log"]["postgresql"]
    described = rows * sum(figures["descriptors"].values()) / 3.6e6
    gpu_hour_tokens = 3600 * prices["gpu_tokens_per_second"]
    judging = rows * traffic["judged_share"] * traffic["judge_tokens"] / gpu_hour_tokens
    gpus = math.ceil(peak * tokens / prices["gpu_tokens_per_second"])
    raw = rows * traffic["months_in_database"] * log["bytes"] / 1e9
    archived = rows * traffic["months_in_archive"] * figures["archive_bytes"] / 1e9
    return {
        "rows a month, if the peak lasted": peak * HOURS * 3600,
        "requests a second on average": rows / (HOURS * 3600),
        "open requests at the peak": peak * seconds,
        "requests a second of a worker, by its core": by_core,
        "requests a second of a worker, by the requests that it may hold": by_places,
        "gateway pods": pods,
        "records a second that one connection to PostgreSQL wrote, 16 in a transaction": log["groups"][2]["per_second"],
        "GB of log in PostgreSQL": raw,
        "GB of log in the archive": archived,
        "hours of a core for descriptors, a month": described,
        "GPU hours of the judge, a month": judging,
        "polls of the registry a second": pods,
        "MLflow traces a second on average": rows / (HOURS * 3600) * traffic["mlflow_trace_share"],
        "GPUs at the peak": gpus,
        "$ a month: gateway pods, a vCPU and a GiB each": pods
        * HOURS
        * (prices["vcpu_hour"] + prices["memory_gib_hour"]),
        "$ a month: storage of the log in PostgreSQL": raw * prices["database_gb_month"],
        "$ a month: storage of the archive": archived * prices["object_gb_month"],
        "$ a month: descriptors": described * prices["vcpu_hour"],
        "$ a month: judge": judging * prices["gpu_hour"],
        "$ a month: GPUs for the month's rows": rows * tokens / gpu_hour_tokens * prices["gpu_hour"],
        "$ a month: GPUs, if those of the peak run all month": gpus * HOURS * prices["gpu_hour"],
    }


def costs(figures: Figures) -> Iterable[Sequence[str]]:
    queue, log = figures["queue"], figures["log"]
    for kind in ("whole", "streamed"):
        alone, many = queue[kind]["alone_cpu_ms"], queue[kind]["saturated_cpu_ms"]
        yield f"a {kind} reply, CPU of the gateway", f"{alone:.2f} ms", f"{many:.2f} ms where 96 are open"
    yield "a piece of a streamed reply", f"{queue['streamed']['worker']['piece']:.3f} ms", ""
    yield "a worker without requests", f"{queue['background_ms']:.1f} ms", "a second"
    for name, shown in (("postgresql", "PostgreSQL"), ("sqlite", "SQLite")):
        for group in log[name]["groups"]:
            what = f"{shown}, {group['records']} records in a transaction"
            yield what, f"{group['cpu_ms']:.2f} ms", f"{group['per_second']:,.0f} records a second"
        yield f"{shown}, a record with its indexes", f"{log[name]['bytes']:,.0f} bytes", ""
    yield "the archive, a record", f"{figures['archive_bytes']:,.0f} bytes", "Parquet"
    ordered = sorted(figures["descriptors"].items(), key=lambda item: -item[1])
    yield "all packaged descriptors of a row", f"{sum(figures['descriptors'].values()):.3f} ms", ""
    for kind, cost in ordered[:5]:
        yield f"of it, `{kind}`", f"{cost:.3f} ms", ""


def agreement(figures: Figures) -> Iterable[Sequence[str]]:
    """Means over the runs of each load, and their range."""
    names = [f"{simulated}{name}" for name in ("busy", "p50", "p95") for simulated in ("", "simulated_")]
    for kind in ("whole", "streamed"):
        for load in figures["queue"][kind]["loads"]:
            cells = []
            for name in names:
                values, digits = [each[name] for each in load["rounds"]], 2 if "busy" in name else 1
                cells.append(f"{np.mean(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})")
            yield kind, f"{load['share']:.0%}", f"{load['rate']:.0f}", *cells


def tables(figures: Figures, inputs: Figures) -> dict[str, str]:
    """The page's tables as Markdown, by name."""

    def shown(value: float) -> str:
        return f"{value:,.0f}" if value >= 20 else f"{value:,.2f}"

    def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
        return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))

    given = [(name, f"{value:,}") for values in inputs.values() for name, value in values.items()]
    compared = [cell for name in ("core busy", "added p50", "added p95") for cell in (name, "simulated")]
    return {
        "inputs": table(("input", ""), given),
        "needed": table(("needed", ""), [(name, shown(value)) for name, value in needed(figures, inputs).items()]),
        "costs": table(("", "", ""), costs(figures)),
        "measured": ", ".join(f"{name} {value}" for name, value in figures["measured"].items()),
        "agreement": table(("replies", "load", "requests/s", *compared), agreement(figures)),
    }


def filled(page: str, found: Mapping[str, str]) -> str:
    """The page with what is between `<!-- NAME -->` and `<!-- /NAME -->` replaced, for each name."""
    place = re.compile(rf"(?<=<!-- )({'|'.join(found)}) -->\n.*?(?=<!-- /\1 -->)", re.DOTALL)
    return place.sub(lambda at: f"{at[1]} -->\n{found[at[1]]}\n", page)
