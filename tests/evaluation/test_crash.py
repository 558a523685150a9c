"""A run killed with SIGKILL at any moment goes on where it was: the same rows in the end, and nothing asked twice."""

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from tests.engines.upstream_server import Seen, Send, UpstreamServer, delta, sse, stream

ROWS, SLOTS, KILLS = 120, 4, 2

# Evaluates against the upstream of argv[2], with the cache in argv[1], and prints every row's output and score.
PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from llmops.engines.openai import OpenAIEngine
from llmops.generation import GenerationParameters
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generating import Task
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.runner import generate_all, score_all
from llmops.evaluation.scorers import make_scorer
from llmops.prompt_file import parse_prompt

folder, url, n, slots = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
template = parse_prompt("---\\ninput_variable: question\\n---\\n# user\\n{{ question }}\\n")
rows = [EvalRow(f"r{i}", {"question": f"question {i}"}, {"answers": [f"answer to question {i}"]}) for i in range(n)]

async def main():
    engine = OpenAIEngine(url, "big", slots=slots)
    async def give():
        return engine
    task = Task(template, GenerationParameters(), "sha", engine.identity, rows)
    cache = GenerationCache(folder)
    [made] = await generate_all([task], give, cache)
    report = await score_all(task, made, [make_scorer("right", "exact_match", {})], cache)
    await engine.close()
    for result in report.results:
        print(json.dumps([result.row.id, result.output.text, result.output.error, result.scores["right"].value]))
    print(json.dumps([report.generated, report.from_cache, report.metrics["right"].mean]))

asyncio.run(main())
"""


class Upstream(UpstreamServer):
    """Counts how often each question came, and takes a moment to answer."""

    def __init__(self) -> None:
        super().__init__(self.reply)
        self.asked: Counter[str] = Counter()

    async def reply(self, seen: Seen, send: Send) -> bool:
        question = seen.body["messages"][-1]["content"]
        self.asked[question] += 1
        await asyncio.sleep(0.01)
        usage = {"choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 4}}
        events = sse(delta(f"Answer to {question}.", "stop"), usage, "[DONE]")
        return await stream(events)(seen, send)


async def start(folder: Path, upstream: Upstream) -> asyncio.subprocess.Process:
    arguments = [str(folder), upstream.url, str(ROWS), str(SLOTS)]
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, *arguments, stdout=asyncio.subprocess.PIPE
    )


async def finish(folder: Path, upstream: Upstream) -> tuple[list[Any], list[Any]]:
    """The rows of a run that is let to its end, and its counts."""
    process = await start(folder, upstream)
    out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    *rows, counts = map(json.loads, out.splitlines())
    return rows, counts


async def killed(folder: Path, upstream: Upstream, after: int, moment: float) -> None:
    """Runs, and kills it a moment after the upstream has been asked `after` times more."""
    process = await start(folder, upstream)
    aim = upstream.asked.total() + after
    async with asyncio.timeout(60):
        while upstream.asked.total() < aim:
            assert process.returncode is None, "it ended before it was killed"
            await asyncio.sleep(0.001)
    await asyncio.sleep(moment)
    process.kill()
    await process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path):
    chance = random.Random()  # noqa: S311 - other moments each time; what is claimed holds at all of them
    moments = [(chance.randint(1, 25), chance.uniform(0, 0.015)) for _ in range(KILLS)]

    async def run() -> None:
        async with Upstream() as upstream:
            for after, moment in moments:
                await killed(tmp_path / "killed", upstream, after, moment)
            rows, (generated, from_cache, mean) = await finish(tmp_path / "killed", upstream)
            assert len(upstream.asked) == ROWS
            assert upstream.asked.total() <= ROWS + KILLS * SLOTS, moments  # only what was in flight is asked again
            assert (generated + from_cache, mean) == (ROWS, 1.0)
            assert from_cache >= sum(after for after, _ in moments) - KILLS * SLOTS, moments
            upstream.asked.clear()
            assert rows == [[f"r{i}", f"Answer to question {i}.", None, True] for i in range(ROWS)]
            again, (generated, from_cache, _) = await finish(tmp_path / "killed", upstream)
            assert (again, generated, from_cache, dict(upstream.asked)) == (rows, 0, ROWS, {})

    asyncio.run(run())
