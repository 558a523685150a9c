"""Metrics of one process, and of several that count together; the exposition read by Prometheus' own parser."""

import asyncio
import math
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest
from prometheus_client.parser import text_string_to_metric_families

from llmops.production_log import LogRecord
from service.metrics import MOST_TARGETS, Metrics

OK = {"target": "assistant@1", "outcome": "ok", "status": "200"}


def record(release="assistant@1", **values):
    fields = {"status": 200, "outcome": "ok", "model": "tiny@1"}
    fields |= {"tokens_in": 7, "tokens_out": 5, "latency_ms": 500.0, "first_token_ms": 100.0, **values}
    return LogRecord("r", datetime.now(UTC), release=release, **fields)


def scraped(text):
    """Every sample; the parser raises on what is not valid. Fails on doubled samples."""
    samples = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in samples
            samples[key] = sample.value
    return samples


def value(text, name, **labels):
    return scraped(text).get((f"llmops_{name}", frozenset(labels.items())))


def make(in_flight=0):
    return Metrics(in_flight=lambda: in_flight)


def test_a_finished_request_counts_its_times_and_tokens():
    metrics = make()
    metrics.count(record())
    text = metrics.text()
    assert value(text, "requests_total", **OK) == 1
    for name, expected in [
        ("request_seconds_sum", 0.5),
        ("first_token_seconds_sum", 0.1),
        ("output_token_seconds_sum", 0.1),  # 400 ms for 4
    ]:
        assert value(text, name, target="assistant@1") == pytest.approx(expected)
    assert value(text, "tokens_total", target="assistant@1", direction="in") == 7
    assert value(text, "tokens_total", target="assistant@1", direction="out") == 5


def test_what_answers_hold_beside_text_is_counted_and_a_bare_model_under_its_own_name():
    metrics = make()
    metrics.count(record(details={"refusal": "no", "reasoning": "hm", "missing_answers": 2}))
    metrics.count(record(details={"tool_calls": [{}]}, tokens_in=None, tokens_out=None, route="chat"))
    metrics.count(record(None, outcome="error", status=503, first_token_ms=None, tokens_out=0))
    text = metrics.text()
    for what in ("refusal", "reasoning", "tool_calls", "missing_answers", "unknown_tokens"):
        assert value(text, "answers_with_total", target="assistant@1", what=what) == 1
    assert value(text, "tokens_total", target="assistant@1", direction="out") == 5
    assert value(text, "requests_total", target="tiny@1", outcome="error", status="503") == 1
    assert value(text, "first_token_seconds_count", target="tiny@1") == 0  # it has no text


def test_everything_else_that_happens_is_counted():
    metrics = make(in_flight=3)
    metrics.refused(429)
    metrics.count(record(details={"queue_ms": 250.0}))
    metrics.count_loss()
    metrics.shadow("dropped")
    metrics.guarded("assistant@1", "redacted")
    metrics.watch("llmops_keys", "Keys that are valid now", lambda: 2)
    metrics.watch_queues(lambda: {"tiny@1": (4, 16)})
    text = metrics.text()
    assert value(text, "refused_requests_total", status="429") == 1
    assert value(text, "queue_seconds_sum", target="assistant@1") == 0.25
    assert value(text, "log_failures_total") == 1
    assert value(text, "shadow_requests_total", outcome="dropped") == 1
    assert value(text, "guard_actions_total", target="assistant@1", action="redacted") == 1
    assert value(text, "in_flight") == 3
    assert value(text, "keys") == 2
    assert value(text, "engine_queue", model="tiny@1", state="waiting") == 4
    assert value(text, "engine_queue", model="tiny@1", state="running") == 16


def test_what_is_not_known_yet_is_infinite_and_a_model_that_was_unloaded_has_no_queue():
    metrics, depths = make(), {"tiny@1": (4, 16)}
    metrics.watch("llmops_snapshot_age_seconds", "Since the registry was last read", lambda: None)
    metrics.watch_queues(lambda: depths)
    metrics.text()
    depths.clear()
    assert value(metrics.text(), "snapshot_age_seconds") == math.inf
    assert value(metrics.text(), "engine_queue", model="tiny@1", state="running") == 0


def test_the_number_of_series_is_bounded_and_apps_of_one_process_do_not_add_up():
    metrics, other = make(), make()
    for version in range(MOST_TARGETS + 50):
        metrics.count(record(f"assistant@{version}"))
    text = metrics.text()
    assert value(text, "requests_total", **{**OK, "target": "other"}) == 50
    assert text.count(b"llmops_requests_total{") == MOST_TARGETS + 1
    assert value(other.text(), "requests_total", **OK) is None


def test_counting_a_request_is_cheap():
    metrics, one = make(), record()
    metrics.count(one)
    best = math.inf
    for _ in range(5):
        start = time.thread_time()
        for _ in range(1000):
            metrics.count(one)
        best = min(best, (time.thread_time() - start) / 1000)
    assert best < 50e-6


WORKER = """
import sys, time
from datetime import datetime, UTC
from llmops.production_log import LogRecord
from service.metrics import Metrics

held = int(sys.argv[1])
metrics = Metrics(in_flight=lambda: held)
metrics.watch("llmops_snapshot_age_seconds", "Age", lambda: float(held))
metrics.refused(429)
for number in range(held):
    metrics.count(LogRecord("r", datetime.now(UTC), 200, "ok", release="assistant@1", latency_ms=20, tokens_out=2))
    metrics.refresh()
print("counted", flush=True)
if sys.argv[2] == "read":
    sys.stdout.buffer.write(metrics.text())
    sys.stdout.flush()
sys.stdin.read()
"""


def worker(folder, held, then="wait"):
    process = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(held), then],
        env={**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,  # what a buffer had read ahead, `communicate` would not see
    )
    assert process.stdout.readline() == b"counted\n"
    return process


def test_one_scrape_is_the_sum_over_all_workers_the_dead_ones_too_whose_files_go(tmp_path):
    for held in (1, 2):
        dead = worker(tmp_path, held)
        dead.kill()
        dead.communicate()
    other, reader = worker(tmp_path, 3), worker(tmp_path, 4, "read")
    text, _ = reader.communicate(timeout=60)
    other.communicate(timeout=60)
    assert reader.returncode == other.returncode == 0
    assert value(text, "requests_total", **OK) == 10
    assert value(text, "request_seconds_count", target="assistant@1") == 10
    assert value(text, "request_seconds_bucket", target="assistant@1", le="0.025") == 10
    assert value(text, "refused_requests_total", status="429") == 4
    assert value(text, "in_flight") == 3 + 4  # a gauge of the dead says nothing
    assert value(text, "snapshot_age_seconds") == 4
    assert sorted(path.name for path in tmp_path.glob("*_0.db")) == ["counter_0.db", "histogram_0.db"]
    assert len(list(tmp_path.glob("counter_*.db"))) == 3  # folded, the reader's own, and the other's


@pytest.mark.anyio
async def test_what_is_watched_is_refreshed_while_nobody_scrapes():
    looks, twice = iter((1, 2)), asyncio.Event()

    def look():
        if (number := next(looks, 3)) == 2:
            twice.set()
        return number

    task = asyncio.create_task(Metrics(in_flight=look).keep_fresh(0.01))
    await asyncio.wait_for(twice.wait(), 10)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
