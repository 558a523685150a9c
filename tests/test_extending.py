"""The examples of docs/extending.md: each is made in a copy of the tree, and does there what the page says."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs/extending.md").read_text(encoding="utf-8")
MOST_LINES = 30

TRIED = {
    "A scorer": """
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.results import Output
from llmops.evaluation.scorers import make_scorer
scorer = make_scorer("brief", "brevity", {"sentences": 1})
row = EvalRow("1", {"question": "?"})
assert [scorer.score(row, Output(text)).value for text in ("One.", "One. Two.")] == [True, False]
""",
    "An engine": """
import asyncio
from llmops.engines.opening import ENGINE_NAMES, engine_name, open_engine
from llmops.engines.protocol import generate
from llmops.errors import EngineRejected
from llmops.generation import GenerationParameters, GenerationRequest, Message
from llmops.settings import Settings
from llmops.versions import ModelVersion
model = ModelVersion("tiny", 1, "file:tiny.gguf", "gguf", "0" * 64)
engine = open_engine(model, Settings(), "shout")
asked = GenerationRequest((Message(role="user", content="say it"),))
assert asyncio.run(generate(engine, asked)).text == "SAY IT "
rejected = GenerationRequest(asked.messages, GenerationParameters(response_format={"type": "json_object"}))
try:
    asyncio.run(generate(engine, rejected))
except EngineRejected as error:
    assert "cannot enforce it" in str(error)
else:
    raise AssertionError("a response format was passed over")
short = GenerationRequest(asked.messages, GenerationParameters(max_tokens=1))
assert asyncio.run(generate(engine, short)).finish_reason == "length"
assert "shout" in ENGINE_NAMES and engine_name(model, Settings()) == "llamacpp"
""",
    "A route": """
from pathlib import Path
from tempfile import mkdtemp
from llmops.keys import KeyStore
from tests.service.conftest import serving
with serving(Path(mkdtemp())) as gateway:
    assert gateway.http.get("/v1/champions").json() == {"assistant": "assistant@1"}
store = KeyStore("sqlite:///" + mkdtemp() + "/log.db")
for app, seen in (("assistant", {"assistant": "assistant@1"}), ("another", {})):
    key = store.create(apps=[app])[1]
    with serving(Path(mkdtemp()), keys=store) as gateway:
        reply = gateway.http.get("/v1/champions", headers={"authorization": f"Bearer {key}"})
        assert reply.json() == seen
""",
    "A descriptor": """
from datetime import UTC, datetime
from llmops.settings import Settings
from monitoring.descriptors.descriptor_set import read_declarations
from llmops.production_log import LogRecord
(declared,) = read_declarations([{"name": "speed", "kind": "tokens_per_second"}], Settings(), "descriptors.toml")
record = LogRecord("1", datetime.now(UTC), 200, "ok", "?", "An answer.", tokens_out=20, latency_ms=500.0)
assert declared.compute([record]) == [40.0]
""",
    "A gate rule": """
from llmops.evaluation.results import AnswerCounts, Metric
from llmops.evaluation.gate import GateInput, decide
from llmops.evaluation.gate_rules import GateRules, loosened
rules = GateRules.from_mapping({"primary": "correct", "least_rows": 50})
verdict = decide(rules, GateInput({"correct": Metric.of([True] * 20, 0)}, None, AnswerCounts(20)))
assert verdict.verdict == "inconclusive" and "20 rows, 50 asked for" in verdict.reasons
assert "at least 50 rows" in rules.sentence()
dropped = loosened(rules, GateRules.from_mapping({"primary": "correct"}))
assert dropped == {"least_rows": "least_rows lowered from 50 to 0"}
""",
}


def sections() -> dict[str, str]:
    """By heading, what stands under it."""
    parts = re.split(r"^## (.+)\n", PAGE, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def changes(section: str) -> list[tuple[str, str, str]]:
    """Kind, file and text of each block that changes a file."""
    return re.findall(r"```(python|diff)\n# (\S+)\n(.*?)```", section, flags=re.DOTALL)


def make(kind: str, path: Path, text: str) -> None:
    """Writes a new file, or puts the new lines of each hunk beside the one that stands in the file."""
    if kind == "python":
        path.write_text(text, encoding="utf-8")
        return
    source = path.read_text(encoding="utf-8")
    for hunk in text.split("@@\n"):
        lines = hunk.splitlines()
        old = "\n".join(line[1:] for line in lines if not line.startswith("+"))
        new = "\n".join(line[1:] for line in lines)
        assert source.count(old) == 1, f"{path.name} has these lines {source.count(old)} times:\n{old}"
        source = source.replace(old, new)
    path.write_text(source, encoding="utf-8")


TRY_EACH = """
import json, sys, traceback
failed = {}
for door, code in json.load(sys.stdin).items():
    try:
        exec(code, {})
    except Exception:
        failed[door] = traceback.format_exc()
print(json.dumps(failed))
"""


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """By door, why its example does not do what the page says: made and tried in a copy of what the examples change."""
    folder = tmp_path_factory.mktemp("tree")
    for room in ("llmops", "service", "monitoring", "tests"):
        shutil.copytree(ROOT / room, folder / room, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for section in sections().values():
        for kind, path, text in changes(section):
            make(kind, folder / path, text)
    for linter in (["check"], ["format", "--check"]):
        command = [sys.executable, "-m", "ruff", *linter, "--quiet", "llmops", "service", "monitoring"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        assert done.returncode == 0, done.stdout
    command = [sys.executable, "-c", TRY_EACH]
    done = subprocess.run(command, input=json.dumps(TRIED), capture_output=True, text=True, cwd=folder, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_the_page_has_an_example_for_each_door():
    assert list(sections()) == [*TRIED, "Afterwards"]


@pytest.mark.parametrize("door", TRIED)
def test_an_example_is_short_and_does_what_the_page_says(door, failed):
    found = changes(sections()[door])
    written = [line for kind, _, text in found for line in text.splitlines() if kind == "python" or line[:1] == "+"]
    assert len([line for line in written if line.strip("+ ")]) <= MOST_LINES
    assert failed.get(door, "") == ""
