"""llmops against other evaluation runners: same machine, same model file, same rows, same prompts, in one run.

    python -m benchmarks.evaluation.runners [--rounds 3] [--peers DIR]

100 questions under 2 prompt versions, greedy, at most 24 tokens, right when the answer is contained. Contenders take
turns, in another order each round; the median counts. Every contender starts with no answer and no prompt cached.
Exits 1 when a criterion is missed.

"Ours" is `llmops eval run --engine openvino`, which a team that runs suites would choose (ADR 16). It needs the package
openvino-genai. The same with llama.cpp, the default engine, is shown beside it.

What is equal: rows, prompt texts, decoding parameters, model file, slots and threads; the build of llama.cpp, too, for
all but the first.

What is not, and in whose favour:
- Peers speak HTTP to the server of `server.py`; we also decode in process. That is our offer, so it is what counts
  here; the rows "llmops, over HTTP" show what is left when it is taken away.
- openvino against llama.cpp: the engine is part of our offer as well; the row "llmops, in process, llama.cpp" shows
  what is left without it. Both hold the weights wide (as Q8_0), the server has them as stored (Q4_1).
- The server keeps its prompt cache, llama.cpp's default, as a user's would; so does our engine in an evaluation.
- "seconds" is generating and scoring by each contender's own report, without loading the model and without
  recording (MLflow for us, files for the peers). For us the `seconds` of `llmops eval run --json`, added up over the
  two versions although the second begins while the last answers of the first are decoded; promptfoo reports its
  evaluation; for lm-evaluation-harness, which reports no such time, the span of its requests in its log.
  Scoring by containment takes milliseconds.
- "wall" is the whole command with start-up: for us loading the model and recording 200 rows in MLflow too, for
  the peers not the server's loading of the model; for lm-evaluation-harness it is mostly imports.
- lm-evaluation-harness runs through its chat API model (`local-chat-completions`), one request at a time unless told
  otherwise; promptfoo runs 4. Those defaults are what "default" means below.
- promptfoo's `icontains` and the metric given to lm-evaluation-harness look for the answer anywhere, ours for
  whole words. "as the loop" counts the rows whose own score is that of a plain loop over the rows, with llama.cpp.
  Other kernels round differently: openvino, also one request at a time, leaves the loop's text on 44 of the 200 rows,
  at near-ties of at most 0.46 nats, and has another score on 13 of them (right 0.500, the loop 0.495). So its criterion
  is that it agrees with itself; llama.cpp's rows are the ones held against the loop.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.evaluation import peers
from benchmarks.evaluation.choices import float32_folder, run_our_choices
from benchmarks.evaluation.criteria import Criterion, OurRuns, same_as_alone, same_as_loop, same_choices
from benchmarks.evaluation.ours import generated_after_a_change, run_ours
from benchmarks.evaluation.outcome import AnswerKey, ContenderFailed, Outcome
from benchmarks.evaluation.plain_loop import Reference, plain_loop
from benchmarks.evaluation.questions import (
    CHOICE_PROMPT,
    PROMPTS,
    THIRD_PROMPT,
    THIRD_PROMPT_CHANGED,
    Question,
    choice_questions,
    questions,
)
from benchmarks.evaluation.server import MODEL, serving
from benchmarks.gateway.contenders import DEFAULT_CACHE

SLOTS = 16
"""Requests decoded side by side: the default of llmops, and the most that any contender sends."""
CONCURRENCIES = (1, 4, 16)

OURS = "llmops"


@dataclass(slots=True)
class Contender:
    """run: does all the work once, in the folder given. at_least: how many times our time it must take; None: shown
    only."""

    name: str
    run: Callable[[Path], Outcome]
    at_least: float | None = None
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        return statistics.median(outcome.seconds for outcome in self.outcomes)

    @property
    def wall(self) -> float:
        return statistics.median(outcome.wall for outcome in self.outcomes)


def contenders(gguf: Path, cache: Path, asked: Sequence[Question]) -> list[Contender]:
    """Ours first: in process with openvino, against which all are measured, then with llama.cpp.

    Installs the peers when they are absent.
    """
    promptfoo, lm_eval = peers.install_promptfoo(cache), peers.install_lm_eval(cache)

    def served(run: Callable[[str, Path], Outcome]) -> Callable[[Path], Outcome]:
        """With a server of its own, fresh each time."""

        def run_served(folder: Path) -> Outcome:
            with serving(gguf, SLOTS) as base_url:
                return run(base_url, folder)

        return run_served

    def over_http(concurrency: int) -> Callable[[Path], Outcome]:
        return served(lambda url, folder: run_ours(folder, f"openai:{url}#{MODEL}", asked, concurrency))

    def promptfoo_at(concurrency: int | None) -> Callable[[Path], Outcome]:
        return served(lambda url, folder: peers.run_promptfoo(promptfoo, url, asked, folder, concurrency))

    def lm_eval_at(concurrency: int) -> Callable[[Path], Outcome]:
        return served(lambda url, folder: peers.run_lm_eval(lm_eval, url, asked, folder, concurrency))

    def in_process(engine: str) -> Callable[[Path], Outcome]:
        return lambda folder: run_ours(folder, f"file:{gguf}", asked, SLOTS, "--engine", engine)

    return [
        Contender(f"{OURS}, in process, openvino", in_process("openvino")),
        Contender(f"{OURS}, in process, llama.cpp", in_process("llamacpp")),
        *(Contender(f"{OURS}, over HTTP, {n} at a time", over_http(n)) for n in CONCURRENCIES),
        Contender(f"promptfoo {peers.PROMPTFOO}, 1 at a time", promptfoo_at(1), 1.0),
        Contender(f"promptfoo {peers.PROMPTFOO}, default (4)", promptfoo_at(None), 2.0),
        Contender(f"promptfoo {peers.PROMPTFOO}, 16 at a time", promptfoo_at(16), 1.0),
        Contender(f"lm-eval {peers.LM_EVAL}, default (1)", lm_eval_at(1), 2.0),
        Contender(f"lm-eval {peers.LM_EVAL}, 16 at a time", lm_eval_at(16), 1.0),
    ]


def take_turns(entrants: Sequence[Contender], rounds: int, rows: int) -> None:
    """Runs every contender once a round; each round begins with another one. Raises ContenderFailed."""
    for number in range(rounds):
        start = number * len(entrants) // rounds
        for contender in (*entrants[start:], *entrants[:start]):
            say(f"round {number + 1} of {rounds}: {contender.name}")
            with tempfile.TemporaryDirectory(prefix="llmops-bench-") as folder:
                outcome = contender.run(Path(folder))
            if len(outcome.answers) != rows:
                raise ContenderFailed(f"{contender.name} answered {len(outcome.answers)} of {rows} rows")
            say(f"  {outcome.seconds:.1f} s, wall {outcome.wall:.1f} s, right {outcome.mean_score:.3f}")
            contender.outcomes.append(outcome)


def show_speed(entrants: Sequence[Contender], loop: Mapping[AnswerKey, Reference]) -> list[Criterion]:
    """Prints the table; gives the criteria of speed."""
    ours = entrants[0]
    print(f"\n{'contender':34} {'seconds':>8} {'range':>13} {'ratio':>6} {'needs':>6} {'wall':>7} {'ratio':>6}"
          f" {'right':>6} {'as the loop':>12}")  # fmt: skip
    for contender in entrants:
        times = [outcome.seconds for outcome in contender.outcomes]
        spread = f"{min(times):.1f}–{max(times):.1f}"
        needs = f"{contender.at_least:.1f}" if contender.at_least else "–"
        last = contender.outcomes[-1]
        same = sum(last.answers[key].score == reference.answer.score for key, reference in loop.items())
        print(
            f"{contender.name:34} {contender.seconds:8.1f} {spread:>13} {contender.seconds / ours.seconds:6.2f}"
            f" {needs:>6} {contender.wall:7.1f} {contender.wall / ours.wall:6.2f} {last.mean_score:6.3f}"
            f" {f'{same} of {len(loop)}':>12}"
        )
    return [
        Criterion(
            f"{c.name} takes {c.seconds / ours.seconds:.2f} times as long as ours, at least {c.at_least} is asked",
            c.seconds >= c.at_least * ours.seconds,
        )
        for c in entrants
        if c.at_least
    ]


def measure(gguf: Path, cache: Path, rounds: int, limit: int | None) -> list[Criterion]:
    """The whole benchmark. Raises ContenderFailed."""
    asked = questions()[:limit]
    entrants = contenders(gguf, cache, asked)
    openvino, llamacpp = entrants[:2]
    take_turns(entrants, rounds, len(asked) * len(PROMPTS))
    say("a plain loop, one slot")
    loop = plain_loop(gguf, asked)
    criteria = show_speed(entrants, loop)
    with tempfile.TemporaryDirectory(prefix="llmops-bench-") as name:
        folder = Path(name)
        source = f"file:{gguf}"
        say(f"{OURS}, on the plain loop's server")
        with serving(gguf, slots=1, prompt_cache=False) as base_url:
            loop_server = run_ours(folder / "loop", f"openai:{base_url}#{MODEL}", asked, 1)
        llamacpp_twice = repeated(folder, source, asked, "llamacpp")
        criteria += same_as_loop(OurRuns(loop_server, llamacpp_twice, llamacpp.outcomes), loop)
        openvino_twice = repeated(folder, source, asked, "openvino")
        criteria += same_as_alone(openvino_twice, openvino.outcomes, loop)
        say("one of three prompts changed")
        third = (THIRD_PROMPT, THIRD_PROMPT_CHANGED)
        made = generated_after_a_change(folder / "change", source, asked, SLOTS, third)
        text = f"one of three prompts changed: generated {made} of {len(asked)} rows each"
        criteria.append(Criterion(text, made == [0, 0, len(asked)]))
        criteria += measure_choices(gguf, cache, folder)
    return criteria


def repeated(folder: Path, source: str, asked: Sequence[Question], engine: str) -> tuple[Outcome, Outcome]:
    """Two runs with `--repeatable`: each request alone. Raises ContenderFailed."""
    say(f"{OURS}, {engine}, --repeatable, twice")
    first, second = (
        run_ours(folder / f"{engine}-{number}", source, asked, SLOTS, "--engine", engine, "--repeatable")
        for number in (1, 2)
    )
    return first, second


def measure_choices(gguf: Path, cache: Path, folder: Path) -> list[Criterion]:
    """Multiple choice with both, once."""
    model, asked = float32_folder(gguf, cache), choice_questions()
    rows = [
        {"id": item.id, "question": item.question, "choices": item.choices, "answer_index": item.answer_index}
        for item in asked
    ]
    (folder / "theirs").mkdir()
    say("multiple choice, lm-eval hf")
    theirs = peers.run_lm_eval_choices(peers.install_lm_eval(cache), model, CHOICE_PROMPT, rows, folder / "theirs")
    say("multiple choice, llmops")
    return same_choices(run_our_choices(folder / "ours", model, asked), theirs)


def model_file() -> Path:
    """The catalogue's default model, fetched when absent: one GGUF for every contender."""
    from llmops.models.sources import DEFAULT_MODEL
    from llmops.models.weights import verified_path
    from llmops.registry import Registry
    from llmops.registry.model_registration import pull
    from llmops.settings import Settings

    settings = Settings.from_environment()
    return verified_path(pull(settings, Registry(settings), DEFAULT_MODEL, say)[0], settings)


def say(text: str) -> None:
    """Progress, with the machine's load at that moment."""
    print(f"[load {os.getloadavg()[0]:.1f}] {text}", file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Evaluation runners on the same rows, model file and machine.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", type=Path, default=DEFAULT_CACHE, help="folder of their environments (BENCH_PEERS)")
    parser.add_argument("--questions", type=int, help="only the first ones, to try the benchmark out")
    parser.add_argument("--model", type=Path, help="a GGUF file; default: the catalogue's default model")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} before the run, {options.rounds} rounds, medians")
    gguf = (options.model or model_file()).resolve()
    criteria = measure(gguf, options.peers.expanduser().resolve(), options.rounds, options.questions)
    print()
    for criterion in criteria:
        print(f"{'met   ' if criterion.met else 'MISSED'} {criterion.text}")
    return 0 if all(criterion.met for criterion in criteria) else 1


if __name__ == "__main__":
    sys.exit(main())
