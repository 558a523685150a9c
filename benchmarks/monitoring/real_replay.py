"""A real replay: answers of two real prompt versions, switched in the middle of twenty days; what alarms, and when.

    .venv/bin/python -m benchmarks.monitoring.real_replay [--answers 5] [--rows 20000] [--keep FILE]

The small model answers the 220 questions of the eval set `qa` and of the evaluation benchmark under `qa@1` and `qa@2`,
several times each at temperature 0.7: all answers are real. The log's rows are drawn from them with replacement (a
sample of independent rows), a thousand a day: ten days of `qa@1`, then ten of `qa@2`. The first five days are the
reference, and every later day one run of the monitor as it ships.

What must hold, and makes the exit code 1 where it does not: days before the switch are quiet; the day of the switch
alarms; no alarm names the questions, which did not change; every row that an alarm names was answered by `qa@2`; and
the descriptor that alarms first is among those that differ most between all answers of the two versions, compared here
without the monitor. keep: where answers are kept between runs.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.evaluation.questions import questions
from llmops.engines.opening import open_engine
from llmops.engines.protocol import generate
from llmops.generation import GenerationRequest
from llmops.models.sources import DEFAULT_MODEL
from llmops.production_log import LogRecord, ProductionLog
from llmops.prompt_file import PromptTemplate, load_prompt_folder
from llmops.registry import Registry
from llmops.registry.model_registration import pull
from llmops.settings import Settings
from monitoring.config import read_config
from monitoring.decide.result import MonitorResult
from monitoring.run import run_monitor

ROOT = Path(__file__).parents[2]
APP, START, DAY = "assistant", datetime(2026, 6, 1, tzinfo=UTC), timedelta(days=1)
DAYS, REFERENCE_DAYS, SWITCH = 20, 5, 10
TEMPERATURE = 0.7
MOST_TELLING = 8
"""How many of the descriptors that differ most count as the right ones."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One real answer. version: of the prompt."""

    version: int
    question: str
    text: str
    tokens_in: int
    tokens_out: int
    latency_ms: float


def asked_questions() -> list[str]:
    """The questions of the eval set and of the evaluation benchmark."""
    lines = (ROOT / "eval_sets/qa/rows.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["inputs"]["question"] for line in lines] + [item.question for item in questions()]


async def answer_all(settings: Settings, times: int) -> list[Answered]:
    """Every question under both versions, `times` times each, all slots of the engine full."""
    model = pull(settings, Registry(settings), DEFAULT_MODEL, lambda text: print(text, file=sys.stderr))[0]
    engine = open_engine(model, settings)
    templates = [template for _, template in load_prompt_folder(ROOT / "prompts/qa")][:2]
    free = asyncio.Semaphore(2 * engine.slots)

    async def answer(version: int, template: PromptTemplate, question: str, seed: int) -> Answered:
        parameters = replace(template.parameters, temperature=TEMPERATURE, seed=seed)
        async with free:
            made = await generate(engine, GenerationRequest(template.render({"question": question}), parameters))
        usage = made.usage
        return Answered(
            version, question, made.text, usage.tokens_in or 0, usage.tokens_out or 0, 1000 * made.latency_s
        )

    work = [
        answer(version, template, question, seed)
        for version, template in enumerate(templates, 1)
        for question in asked_questions()
        for seed in range(times)
    ]
    try:
        return list(await asyncio.gather(*work))
    finally:
        await engine.close()


def fill_log(log: ProductionLog, answers: Sequence[Answered], rows: int) -> None:
    """Draws the days' rows from the answers of the version that is served on each."""
    chance = random.Random(11)  # noqa: S311  a simulation
    by_version = {version: [each for each in answers if each.version == version] for version in (1, 2)}
    a_day = rows // DAYS
    for day in range(DAYS):
        version = 1 if day < SWITCH else 2
        drawn = chance.choices(by_version[version], k=a_day)
        log.append([_record(day, number, a_day, each) for number, each in enumerate(drawn)])


def _record(day: int, number: int, a_day: int, answered: Answered) -> LogRecord:
    version = answered.version
    return LogRecord(
        request_id=f"d{day:02}-{number:05}-v{version}",
        at=START + day * DAY + number / a_day * DAY,
        status=200,
        outcome="ok",
        input=answered.question,
        output=answered.text,
        release=f"{APP}@{version}",
        prompt=f"qa@{version}",
        model="smollm2-135m-instruct@1",
        tokens_in=answered.tokens_in,
        tokens_out=answered.tokens_out,
        latency_ms=answered.latency_ms,
    )


def differing(answers: Sequence[Answered]) -> list[tuple[float, str]]:
    """How far the versions lie apart in each number or flag of an answer, in standard deviations; largest first."""
    described = read_config().descriptors.describe([_record(0, n, 1, each) for n, each in enumerate(answers)])
    second = np.array([each.version == 2 for each in answers])
    found = []
    for name, column in described.columns.items():
        if column.dtype == object:
            continue
        before, after = (part[~np.isnan(part)] for part in (column[~second], column[second]))
        if len(before) and len(after):
            spread = float(np.concatenate([before, after]).std(dtype=np.float64))
            found.append((abs(float(after.mean() - before.mean())) / spread if spread else 0.0, name))
    return sorted(found, reverse=True)


def replayed(settings: Settings) -> list[MonitorResult]:
    """One run of the monitor for each day after the reference."""
    days = range(REFERENCE_DAYS, DAYS)
    return [run_monitor(settings, APP, START + day * DAY, START + (day + 1) * DAY) for day in days]


def criteria(results: Sequence[MonitorResult], right: Sequence[str]) -> list[tuple[str, bool]]:
    """What must hold, and whether it does."""
    quiet, later = results[: SWITCH - REFERENCE_DAYS], results[SWITCH - REFERENCE_DAYS :]
    alarms = [alarm for result in later for alarm in result.alarms]
    rows = [row for alarm in alarms for row in alarm.rows]
    wrong = sum(not row.endswith("-v2") for row in rows)
    asked = sorted({alarm.what for alarm in alarms if alarm.side == "input"})
    first = later[0].alarms[0].what if later[0].alarms else "nothing"
    return [
        (f"{sum(result.alarm for result in quiet)} of {len(quiet)} days before the switch alarm",
         not any(result.alarm for result in quiet)),
        (f"the day of the switch alarms, first {first}, one of {', '.join(right)}", first in right),
        (f"{sum(result.alarm for result in later)} of {len(later)} days after it alarm",
         all(result.alarm for result in later)),
        (f"alarms about the questions: {', '.join(asked) or 'none'}", not asked),
        (f"{wrong} of {len(rows)} rows named were not answered by qa@2", bool(rows) and not wrong),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description="Two real prompt versions, switched in the middle of a log.")
    parser.add_argument("--answers", type=int, default=5, help="answers to each question under each version")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--keep", type=Path, help="file that keeps the answers")
    arguments = parser.parse_args()
    if arguments.keep and arguments.keep.exists():
        answers = [Answered(**json.loads(line)) for line in arguments.keep.read_text("utf-8").splitlines()]
    else:
        answers = asyncio.run(answer_all(Settings.from_environment(), arguments.answers))
        if arguments.keep:
            arguments.keep.write_text("".join(json.dumps(asdict(each)) + "\n" for each in answers), "utf-8")
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(home=Path(folder))
        log = ProductionLog(settings.resolved_log_url)
        fill_log(log, answers, arguments.rows)
        log.close()
        results = replayed(settings)
    apart = differing(answers)
    print(f"{len(answers)} real answers, {arguments.rows} rows; furthest apart, in standard deviations:")
    print("  " + ", ".join(f"{name} {distance:.2f}" for distance, name in apart[:MOST_TELLING]))
    for day, result in enumerate(results, REFERENCE_DAYS):
        said = ", ".join(alarm.what for alarm in result.alarms) or "quiet"
        print(f"day {day:2}, {'qa@1' if day < SWITCH else 'qa@2'}: {said}")
    print(f"first alarm: {results[SWITCH - REFERENCE_DAYS].alarms[0].why}" if results[5].alarms else "no alarm")
    found = criteria(results, [name for _, name in apart[:MOST_TELLING]])
    for text, holds in found:
        print(f"{'met   ' if holds else 'MISSED'} {text}")
    return 0 if all(holds for _, holds in found) else 1


if __name__ == "__main__":
    sys.exit(main())
