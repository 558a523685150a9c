"""`llmops demo`: the main job from start to end, on the default model and real rows.

Reads like the loop it runs: models → prompts → eval runs → comparisons → releases and gate → gateway traffic (real chat
requests, the demo's production) → monitoring → summary. Every step is idempotent; finished work is reused.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import echo, emit, json_option, print_table, say
from llmops.errors import CannotRun, GateRefused
from llmops.models.sources import DEFAULT_MODEL
from llmops.pages.numbers import interval, number, signed
from llmops.progress import progress_bar
from llmops.settings import Settings, data_folder, describe_folder, with_samples
from llmops.versions import Release

if TYPE_CHECKING:
    from llmops.eval_runs.evaluations import CellRun, Evaluations
    from llmops.evaluation.comparison import Comparison
    from llmops.registry import Registry

APP, SUITE = "assistant", "qa"
# `grounded` is left to the reader: its long prompts cost a minute and add no new kind of step.
_SUITES = ("qa", "extract")
_REQUESTS = 48
_CLIENTS = 4


@click.command()
@json_option
def command(as_json: bool) -> None:
    """Run the whole loop: models, prompts, eval runs, comparison, gate, gateway, monitoring.

    Exits 0 when every step finished, whatever the results.

    \b
    Example: llmops demo
    """
    start = time.perf_counter()
    settings = with_samples(Settings.from_environment())
    from llmops.api.production import champion_of, record_verdict
    from llmops.api.versions import load_prompts
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.registry import Registry, model_registration
    from monitoring.cli.monitor import report_path
    from monitoring.run import run_monitor, write_report

    registry = Registry(settings)
    evaluations = Evaluations(settings, registry)
    with _step("models: pull, check, register"):
        models = [model.ref for model in model_registration.pull(settings, registry, DEFAULT_MODEL, say)]
    with _step("prompts: register what changed"):
        say(describe_folder(data_folder(settings, "prompts")))
        loaded, broken = load_prompts(settings)
        for error in broken.values():
            raise error
        for path, template in loaded:
            version, new = registry.prompts.register(path.parent.name, template)
            if new:
                say(f"  {version.ref}: {template.description}")
    with _step("eval runs: every prompt version on every row, and both model versions"):
        runs = _run_suites(evaluations, models)
    with _step("comparisons: row by row"):
        comparisons = _compare(evaluations, runs, models)
    with _step("releases and gate"):
        challenger, gate, champion = _gate_and_promote(settings, registry, evaluations, runs[SUITE])
    with _step("gateway: chat requests with the openai client"):
        questions = [row.inputs["question"] for row in evaluations.suite(SUITE).rows]
        count = min(_REQUESTS, len(questions))
        with progress_bar() as show:
            requests, second_half_at = send_traffic(
                settings, APP if champion else challenger.ref, questions, count, lambda n: show("requests", n, count)
            )
    with _step("monitor: descriptors, reference against current window"):
        # The second half of the traffic against the reference: the first half, once pinned, for good.
        serves, until = champion_of(settings, APP)[0], datetime.now(UTC)
        monitored = run_monitor(settings, APP, second_half_at, until, champion=serves)
        record_verdict(settings, monitored)
        report = write_report(settings, APP, report_path(settings, APP), second_half_at, until, champion=serves)
    story = {
        "runs": {suite: [item.to_json() for item in done] for suite, done in runs.items()},
        "comparisons": [{"suite": suite, **comparison.to_json()} for suite, comparison in comparisons],
        "gate": gate,
        "champion": champion.ref if champion else None,
        "requests": requests,
        "monitor": monitored.to_json(),
        "report": str(report),
        "seconds": round(time.perf_counter() - start, 1),
    }
    primaries = {suite: evaluations.suite(suite).gate.primary for suite in _SUITES}
    emit(as_json, story, lambda: _summary(story, primaries, served=champion or challenger))


@contextmanager
def _step(title: str) -> Iterator[None]:
    start = time.perf_counter()
    say(f"▶ {title}")
    yield
    say(f"  done in {time.perf_counter() - start:.1f} s")


def _run_suites(evaluations: Evaluations, models: Sequence[str]) -> dict[str, list[CellRun]]:
    """All prompt versions of each suite on the original weights, and the newest qa prompt on the other weights."""
    from llmops.eval_runs.evaluations import RunOptions

    runs = {}
    with progress_bar() as show:
        for name in _SUITES:
            suite = evaluations.suite(name)
            cells = evaluations.cells(suite, models=models[:1])
            if name == SUITE:
                newest = evaluations.registry.prompts.get(suite.prompt)
                cells += evaluations.cells(suite, prompts=[newest.ref], models=models[1:])
            runs[name] = evaluations.run(suite, cells, RunOptions(), show)
            for done in runs[name]:
                say(f"  {name}: {done.run.cell}: {done.generated} generated, {done.from_cache} from cache")
    return runs


def _compare(
    evaluations: Evaluations, runs: dict[str, list[CellRun]], models: Sequence[str]
) -> list[tuple[str, Comparison]]:
    """By suite: first against newest prompt version of each, then the weights."""
    compared = []
    for name, done in runs.items():
        on_original = [item for item in done if item.cell.model.ref == models[0]]
        pairs = [(on_original[0], on_original[-1])]
        pairs += [(on_original[-1], other) for other in done if other.cell.model.ref != models[0]]
        compared += [(name, evaluations.compare(a.run.cell, b.run.cell, name)) for a, b in pairs]
    return compared


def _gate_and_promote(
    settings: Settings, registry: Registry, evaluations: Evaluations, runs: Sequence[CellRun]
) -> tuple[Release, dict[str, Any], Release | None]:
    """Releases for both prompt versions; the better one is gated and, on a pass, promoted. Gives who challenged, the
    gate's verdict, and the champion, which is None when none has passed yet.

    Where the better one serves already, the other challenges it, so that the gate's true verdict is shown.
    """
    from llmops.api.versions import renew_reference

    primary = evaluations.suite(SUITE).gate.primary
    model = runs[0].cell.model
    compared = [run for run in runs if run.cell.model.ref == model.ref]
    book = registry.release_versions
    releases = [book.create(APP, run.cell.prompt, model, run.cell.parameters)[0] for run in compared if run.cell.prompt]

    def mean_of(pair: tuple[CellRun, Release]) -> float:
        mean = pair[0].run.metrics[primary].mean
        return -math.inf if mean is None else mean  # one without a score comes last

    ranked = sorted(zip(compared, releases, strict=True), key=mean_of)
    champion = book.champion(APP)
    challenger = next(release for _, release in reversed(ranked) if champion is None or release.ref != champion.ref)
    against = champion.ref if champion else None
    verdict = evaluations.gate(challenger.ref, against, SUITE).verdict
    try:
        old = book.promote(challenger)
        _, said = renew_reference(settings, registry, challenger, old.ref if old else None)
        say(said)
    except GateRefused:
        say(f"  {challenger.ref} is not promoted: the gate says {verdict.verdict}")
    gate = {"challenger": challenger.ref, "against": against, **verdict.to_json()}
    return challenger, gate, book.champion(APP)


def send_traffic(
    settings: Settings, model: str, questions: Sequence[str], count: int, progress: Callable[[int], None]
) -> tuple[dict[str, Any], datetime]:
    """Starts a gateway, asks `count` of the questions in two halves, half of them streamed, and stops it. Gives what
    was sent and what came back, and when the second half began.

    The questions are shuffled with a fixed seed, so that both halves come from the same distribution. model: an app, or
    a release by its number.

    Raises:
        CannotRun: the gateway does not start, a request fails, or a reply is missing in the log.
    """
    from llmops.production_log import ProductionLog
    from service.serve import running_gateway

    asked = random.Random(0).sample(list(questions), count)  # noqa: S311 - no secret
    half = count // 2
    before = datetime.now(UTC)
    with running_gateway(settings) as base_url:
        start = time.perf_counter()
        first = _ask_all(base_url, model, asked[:half], progress)
        second_half_at = datetime.now(UTC)
        second = _ask_all(base_url, model, asked[half:], lambda done: progress(half + done))
        seconds = time.perf_counter() - start
    replies = [*first, *second]
    served_by = sorted({served for served, _ in replies})
    logged = ProductionLog(settings.resolved_log_url).count(since=before)
    if logged < count:
        raise CannotRun(f"{count} requests were answered, the production log holds {logged}")
    streamed = sum(streamed for _, streamed in replies)
    sent = {"sent": count, "streamed": streamed, "logged": logged, "served_by": served_by, "seconds": round(seconds, 1)}
    return sent, second_half_at


def _ask_all(
    base_url: str, model: str, questions: Sequence[str], progress: Callable[[int], None]
) -> list[tuple[str, bool]]:
    """For each question what answered it (release, prompt and model), and whether the answer was streamed."""
    import openai

    client = openai.OpenAI(base_url=f"{base_url}/v1", api_key="none-needed-on-loopback", max_retries=0, timeout=120)
    done: list[tuple[str, bool]] = []

    def ask(numbered: tuple[int, str]) -> tuple[str, bool]:
        """Every second one is streamed; what served it is read off the reply's headers."""
        number, question = numbered
        messages: Any = [{"role": "user", "content": question}]
        stream = number % 2 == 1
        try:
            raw = client.chat.completions.with_raw_response.create(model=model, messages=messages, stream=stream)
            parsed: Any = raw.parse()
            for _chunk in parsed if stream else ():
                pass
        except openai.OpenAIError as error:
            raise CannotRun(f"the gateway did not answer {question!r}: {error}") from error
        release, prompt, weights = (raw.headers[f"x-llmops-{name}"] for name in ("release", "prompt", "model"))
        return f"{release} ({prompt}, {weights})", stream

    with client, ThreadPoolExecutor(_CLIENTS) as clients:
        for reply in clients.map(ask, enumerate(questions)):
            done.append(reply)
            progress(len(done))
    return done


def _summary(story: dict[str, Any], primaries: dict[str, str], served: Release) -> None:
    """One screen: what was compared, the verdict, what is served, what the monitor says, where to look further.

    story: the demo's JSON. primaries: by suite its deciding metric.
    """
    rows = []
    for comparison in story["comparisons"]:
        primary = primaries[comparison["suite"]]
        (prompt_a, model_a), (prompt_b, model_b) = comparison["a"].split(","), comparison["b"].split(",")
        what = (prompt_a, prompt_b) if model_a == model_b else (model_a, model_b)
        m = comparison["metrics"].get(primary)
        if m is None:  # one side has no score at all
            rows.append((comparison["suite"], *what, primary, *[""] * 3, "not compared", "", ""))
            continue
        change = (number(m["a"]), number(m["b"]), signed(m["difference"]), interval(m["ci95"]))
        counts = f"{m['wins']}/{m['losses']}/{m['ties']}"
        rows.append((comparison["suite"], *what, primary, *change, f"{m['p_value']:.2g}", counts))
    columns = ("suite", "a", "b", "metric", "a#", "b#", "b − a#", "95 % interval", "p#", "wins/losses/ties#")
    print_table("What was compared, row by row", columns, rows)
    runs = [run for done in story["runs"].values() for run in done]
    generated, total = sum(run["generated"] for run in runs), sum(run["rows"] for run in runs)
    gate, requests, monitored = story["gate"], story["requests"], story["monitor"]
    echo(f"evaluated  {total} answers: {generated} generated now, {total - generated} reused")
    against = gate["against"] or "no champion yet (floors only)"
    echo(f"gate       {gate['challenger']} against {against}: {gate['verdict']}")
    for reason in gate["reasons"]:
        echo(f"           {reason}")
    echo(f"served     {served.ref} = {served.prompt.ref} + {served.model.ref}")
    answered = f"{requests['sent']} requests answered ({requests['streamed']} streamed)"
    logged = f"{requests['logged']} of {requests['sent']} in the production log"
    echo(f"gateway    {answered} by {', '.join(requests['served_by'])} in {requests['seconds']:.1f} s, {logged}")
    alarms = ", ".join(alarm["what"] for alarm in monitored["alarms"])
    windows = f"{monitored['window']['rows']} rows against {monitored['reference']['rows']} of reference"
    echo(f"monitor    {f'ALARM: {alarms}' if alarms else 'no alarm'} ({windows})")
    echo(f"report     {story['report']}")
    commands = f"llmops ui · llmops serve · llmops monitor report --app {APP}"
    echo(f"finished in {story['seconds']:.0f} s. Look further: {commands}")
