"""Alert rules and dashboard name only metrics and labels that the gateway and the monitor expose."""

import json
import re
from datetime import UTC, datetime
from pathlib import Path

import promql_parser
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from llmops.engine_host.frames import Pong
from llmops.production_log import LogRecord
from monitoring.act.prometheus import StageCount, exposition
from tests.service.conftest import serving, wait_until

FOLDER = Path(__file__).parents[2] / "deploy" / "observability"
RULES = [
    rule
    for group in yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))["spec"]["groups"]
    for rule in group["rules"]
]
PANELS = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))["panels"]
EXPRESSIONS = {rule.get("alert") or rule["record"]: rule["expr"] for rule in RULES} | {
    f"{panel['title']} {target['refId']}": re.sub(r"\$__(rate_interval|range)", "5m", target["expr"])
    for panel in PANELS
    for target in panel["targets"]
}
SCRAPED = {"pod", "namespace", "instance", "job"}
"""Labels that Prometheus adds to every sample."""


@pytest.fixture(scope="module")
def exposed(tmp_path_factory):
    """Sample name → the labels of its samples, after each kind of event happened once; without samples: no labels."""

    async def ping():
        return Pong({"tiny@1": {"loaded": True, "waiting": 1, "running": 1}}, restarts=1)

    with serving(tmp_path_factory.mktemp("gateway"), ping=ping) as running:
        running.chat()
        running.http.post("/v1/chat/completions", json={"model": "nobody", "messages": []})
        metrics = running.app.state.gateway.metrics
        metrics.count(
            LogRecord("r", datetime.now(UTC), 200, "ok", release="a@1", details={"refusal": "no", "queue_ms": 1})
        )
        metrics.shadow("done")
        metrics.guarded("a@1", "block")
        wait_until(lambda: "llmops_engine_queue{" in running.http.get("/metrics").text)
        text = running.http.get("/metrics").text
    text += exposition([], [], [], [StageCount("detect", 1, 0, 0.0, None)], 0.0)
    found = {}
    for family in text_string_to_metric_families(text):
        suffix = "_total" if family.type == "counter" else ""
        found.setdefault(f"{family.name}{suffix}", None)
        for sample in family.samples:
            found.setdefault(sample.name, set())
            found[sample.name] = (found[sample.name] or set()) | set(sample.labels)
    return found


def selectors(expression):
    """Every series that an expression reads."""
    found = []

    def note(node):
        if isinstance(node, promql_parser.VectorSelector):
            found.append(node)

    promql_parser.walk(expression, pre_visit=note)
    return found


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_an_expression_reads_metrics_and_labels_that_exist(exposed, name):
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    expression = promql_parser.parse(EXPRESSIONS[name])
    labels = set()
    for selector in selectors(expression):
        if selector.name in recorded:
            continue
        assert selector.name in exposed, f"nobody exposes {selector.name}"
        if exposed[selector.name]:
            labels |= exposed[selector.name]
            assert {matcher.name for matcher in selector.matchers.matchers} <= exposed[selector.name]
    if labels:
        grouped = {word for by in re.findall(r"\bby \(([^)]*)\)", EXPRESSIONS[name]) for word in by.split(", ")}
        assert grouped <= labels | SCRAPED
