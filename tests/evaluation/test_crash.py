"""A run killed with SIGKILL at any moment goes on where it was: the same rows in the end, and nothing asked twice."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

ROWS, SLOTS, KILLS = 120, 4, 3

# Evaluates against the upstream of argv[2], with the cache in argv[1], and prints every row's output and score.
PROGRAM = """
import asyncio, json, sys
from pathlib import Path
from llmops.engines.openai import OpenAIEngine
from llmops.generation import GenerationParameters
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.generating import Task
from llmops.evaluation.generation_cache import GenerationCache
from llmops.evaluation.runner import evaluate
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
    report = await evaluate(task, give, [make_scorer("right", "exact_match", {})], GenerationCache(folder))
    await engine.close()
    for result in report.results:
        print(json.dumps([result.row.id, result.output.text, result.output.error, result.scores["right"].value]))
    print(json.dumps([report.generated, report.from_cache, report.metrics["right"].mean]))

asyncio.run(main())
"""


class Upstream:
    """An OpenAI-compatible server that counts how often each question came, and takes a moment to answer."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    @property
    def total(self) -> int:
        with self._lock:
            return self.asked.total()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        upstream = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                question = body["messages"][-1]["content"]
                with upstream._lock:
                    upstream.asked[question] += 1
                time.sleep(0.01)
                choice = {"index": 0, "delta": {"content": f"Answer to {question}."}, "finish_reason": "stop"}
                usage = {"prompt_tokens": 2, "completion_tokens": 4}
                events = [{"choices": [choice]}, {"choices": [], "usage": usage}]
                text = "".join(f"data: {json.dumps(event)}\n\n" for event in events) + "data: [DONE]\n\n"
                try:
                    self.send_response(200)
                    self.send_header("content-type", "text/event-stream")
                    self.send_header("content-length", str(len(text.encode())))
                    self.end_headers()
                    self.wfile.write(text.encode())
                except ConnectionError:  # the one who asked was killed
                    self.close_connection = True

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002 - http.server's name
                """Says nothing."""

        return Handler


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    opened = Upstream()
    yield opened
    opened.close()


def start(folder: Path, upstream: Upstream) -> subprocess.Popen[str]:
    arguments = [str(folder), upstream.url, str(ROWS), str(SLOTS)]
    return subprocess.Popen([sys.executable, "-c", PROGRAM, *arguments], stdout=subprocess.PIPE, text=True)


def finish(folder: Path, upstream: Upstream) -> tuple[list[Any], list[Any]]:
    """The rows of a run that is let to its end, and its counts."""
    process = start(folder, upstream)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    *rows, counts = map(json.loads, out.splitlines())
    return rows, counts


def killed(folder: Path, upstream: Upstream, after: int, moment: float) -> None:
    """Runs, and kills it a moment after the upstream has been asked `after` times more."""
    process = start(folder, upstream)
    aim, deadline = upstream.total + after, time.monotonic() + 60
    while upstream.total < aim:
        assert process.poll() is None, "it ended before it was killed"
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.001)
    time.sleep(moment)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_never_was(tmp_path: Path, upstream: Upstream) -> None:
    chance = random.Random()  # noqa: S311 - other moments each time; what is claimed holds at all of them
    moments = [(chance.randint(1, 25), chance.uniform(0, 0.015)) for _ in range(KILLS)]
    for after, moment in moments:
        killed(tmp_path / "killed", upstream, after, moment)
    rows, (generated, from_cache, mean) = finish(tmp_path / "killed", upstream)
    asked = dict(upstream.asked)
    assert len(asked) == ROWS
    assert sum(asked.values()) <= ROWS + KILLS * SLOTS, moments  # only what was in flight is asked again
    assert (generated + from_cache, mean) == (ROWS, 1.0)
    assert from_cache >= sum(after for after, _ in moments) - KILLS * SLOTS, moments
    upstream.asked.clear()
    undisturbed, _ = finish(tmp_path / "undisturbed", upstream)
    assert rows == undisturbed
    assert set(upstream.asked.values()) == {1}
    upstream.asked.clear()
    again, (generated, from_cache, _) = finish(tmp_path / "killed", upstream)
    assert (again, generated, from_cache, dict(upstream.asked)) == (rows, 0, ROWS, {})
