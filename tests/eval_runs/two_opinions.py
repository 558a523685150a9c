"""Runs suites whose answers are known beforehand, and prints both comparisons of each. A program of its own, so that
another MLflow can be laid over the installed one: `python -m tests.eval_runs.two_opinions`."""

import contextlib
import io
import json
import sys
from collections.abc import Mapping, Sequence

from llmops.cli import main
from llmops.engines.fake import FakeEngine
from llmops.errors import EngineRejected
from llmops.eval_runs import matrix
from llmops.generation import GenerationRequest
from llmops.prompt_file import parse_prompt
from llmops.settings import Settings
from tests.registered_home import prompt_text, register_tiny

SUITES: Mapping[str, Sequence[str]] = {
    # Of each row: whether a is right (1), wrong (0); whether b is, or crashes (x).
    "even": ["10"] * 14 + ["01"] * 14 + ["11"] * 12,
    "few": ["01"] * 3 + ["11"] * 17,
    "crashes": ["1x"] * 5 + ["01"] * 6 + ["11"],
    "same": ["01"] * 10 + ["11"] * 10,
}


def answer(request: GenerationRequest) -> str:
    suite, _, number = str(request.messages[-1]["content"]).rpartition(" ")
    outcome = SUITES[suite.split()[-1]][int(number)]["kind" in str(request.messages[0]["content"])]
    if outcome == "x":
        raise EngineRejected("crashed")
    return "right" if outcome == "1" else "wrong"


def printed(*arguments: str) -> str:
    out = io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.suppress(SystemExit):
        main(list(arguments))
    return out.getvalue()


def run() -> None:
    settings = Settings.from_environment()
    registry, _ = register_tiny(settings)
    for system in ("Be terse.", "Be kind."):
        registry.prompts.register("qa", parse_prompt(prompt_text(system)))
    matrix.open_engine = lambda *_: FakeEngine(answer)  # type: ignore[attr-defined]
    found = {}
    for suite, rows in SUITES.items():
        folder = settings.home.parent / "sets" / suite
        folder.mkdir(parents=True)
        made = [
            {"id": str(n), "inputs": {"question": f"{suite} {n}"}, "expectations": {"answers": ["right"]}}
            for n in range(len(rows))
        ]
        (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
        toml = f'eval_sets = ["{suite}"]\nprompt = "qa"\nmodel = "tiny@1"\n[scorers.exact_match]\n'
        folder.with_suffix(".toml").write_text(f'{toml}[gate]\nprimary = "exact_match"\nrule = "better"\n')
        printed("eval", "run", suite, "--recorder", "bulk")
        found[suite] = json.loads(
            printed("eval", "compare", "qa@1", "qa@2", "--suite", suite, "--second-opinion", "--json")
        )
    found["shown"] = printed("eval", "compare", "qa@1", "qa@2", "--suite", "crashes", "--second-opinion")
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    run()
