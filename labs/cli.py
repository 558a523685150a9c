"""`llmops lab`: the labs, whole or step by step; and `llmops lab check`."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import echo, emit, json_option, json_values, print_table, say
from llmops.pages.numbers import interval, number
from llmops.settings import Settings
from llmops.text_io import listed

if TYPE_CHECKING:
    from labs.checks import ModuleCheck
    from labs.lab import Lab
    from llmops.pipelines import PipelineRun

_LABS = {
    "wine": "The wine lab: three cultivars; the laboratory replaces its instrument half-way.",
    "bike": "The bike lab: hourly rentals; trained on 2011, then tested on 2012 month by month.",
    "insurance": "The insurance lab: policies, claims and accidents, all simulated, so that the truth is known.",
}
_STEPS = ("data", "train", "register", "serve", "monitor", "retrain")
_MOST_NAMED = 6
_WIDTH = 100
_MARGIN = " " * 11

_Json = Mapping[str, Any]


@click.group()
def command() -> None:
    """The labs, each with all five parts (data, model, deploy, monitor, automate); and `check`, for the modules."""


def _add_lab(name: str, what: str) -> None:
    """Adds the command of a lab."""
    help_text = f"""{what}

    Runs all of it, or one STEP by hand. The whole lab is a pipeline: if it is interrupted, the same command continues;
    once finished, it shows the results. Exits 0 when every step finished, whatever the results.

    \b
    Example: llmops lab {name}
    Example: llmops lab {name} train
    """

    @command.command(name, help=help_text)
    @click.argument("step", type=click.Choice(_STEPS), required=False)
    @click.option("--source", metavar="file:PATH", help="Data file; default: the catalogue's.")
    @click.option("--cycle", default="first", help="Name of the run; a new name starts the lab afresh.")
    @click.option("--window", help="With `monitor`: this window instead of the next.")
    @click.option("--port", default=8000, help="With `serve`: port to listen on.")
    @json_option
    def run_lab(step: str | None, source: str | None, cycle: str, window: str | None, port: int, as_json: bool) -> None:
        from labs.pipeline_cli import lab_kind, make_pipeline, open_pipelines

        settings = Settings.from_environment()
        if step is None:
            with open_pipelines(settings) as pipelines:
                run = pipelines.run(make_pipeline(name, settings), {"source": source}, cycle=cycle)
            emit(as_json, contract(run), lambda: _show_whole(run))
        elif step == "serve":
            from service.serve import serve

            if as_json:
                raise click.UsageError("serve runs until Ctrl-C; it has no --json")
            model = lab_kind(name).model_name
            serve(
                port=port,
                on_serving=lambda url: say(
                    f"what if: {url} in a browser; rows and an example: curl {url}/v1/predict/{model}/schema; "
                    "stop with Ctrl-C"
                ),
            )
        else:
            from labs.lifecycle import BY_HAND, ByHand
            from labs.steps import LabSteps

            with lab_kind(name)(settings, source=source, cycle=BY_HAND) as lab:
                hands = ByHand(LabSteps(lab))
                done = hands.monitor(window) if step == "monitor" else getattr(hands, step)()
            emit(as_json, done, lambda: _show_step(name, step, done))


for _name, _what in _LABS.items():
    _add_lab(_name, _what)


@command.command()
@click.argument("module")
@click.option(
    "--answer", "answers", multiple=True, metavar="KEY=VALUE", help="An answer to a question; kept in answers.toml."
)
@json_option
@click.pass_context
def check(ctx: click.Context, module: str, answers: Sequence[str], as_json: bool) -> None:
    """Say what a home shows of a MODULE of the course, and what is still missing; exit 1 when anything is.

    Everything is recomputed from the home's registry, runs and logs. Answers are compared with values recomputed from
    the same home. They are kept in answers.toml of the home, which you may also edit: a table for each module.

    \b
    Example: llmops lab check wine
    Example: llmops lab check wine --answer accuracy=0.95 --answer alarm="batch 03"
    """
    from labs.checks import check_module

    checked = check_module(module, Settings.from_environment(), json_values("--answer", answers))
    emit(as_json, checked.to_json(), lambda: _show_check(checked))
    ctx.exit(0 if checked.done else 1)


def _show_check(checked: ModuleCheck) -> None:
    rows = [("✓" if each.done else "·", each.what, each.found) for each in checked.achievements]
    print_table(f"Module {checked.module}: what this home shows", ("", "achievement", "found"), rows)
    asked = [
        (each.key, each.asks, "" if each.answer is None else each.answer, each.state) for each in checked.questions
    ]
    print_table("Questions", ("key", "question", "your answer", ""), asked)
    for each in checked.achievements:
        if not each.done:
            echo(f"missing    {each.what}: {each.next}")
    waiting = [each.key for each in checked.questions if each.state != "right"]
    if waiting:
        echo(f"answers    {', '.join(waiting)}: llmops lab check {checked.module} --answer {waiting[0]}=…")
    if checked.done:
        echo(f"module {checked.module} is done")


def contract(done: PipelineRun) -> dict[str, Any]:
    """The lab's JSON."""
    steps = [{"name": step.name, "status": step.status, "seconds": round(step.seconds, 2)} for step in done.steps]
    return {"retrained": [], "monitoring": [], **done.result, "cycle": done.cycle, "steps": steps}


def _show_whole(done: PipelineRun) -> None:
    from labs.pipeline_cli import lab_kind
    from llmops.registry import Registry

    result = done.result
    _show_quality(result["data"], result["quality"])
    _show_metric(result["metric"], result["gate"])
    _show_findings(result["findings"])
    if result["model"] is None:
        echo(result["told"])
        return
    lab, app = result["lab"], result["model"].partition("@")[0]
    kind = lab_kind(lab)
    if result["monitoring"]:
        _show_windows(kind, result["monitoring"])
    else:
        echo(f"monitored  no window: {result['model']} was trained on the last one")
    for each in result["monitoring"]:
        if each["alarm"]:
            echo("\n".join(_alarm_lines(each)))
    for each in result["retrained"]:
        gained = "no window follows"
        if each["error_before"] is not None:
            change = f"{number(each['error_before'])} → {number(each['error_after'])}"
            gained = f"{kind.error_name} in the {len(each['windows'])} windows it served since: {change}"
        echo(f"retrained  {each['at']}: {each['from']} → {each['to']}, {gained}")
    now = Registry(Settings.from_environment()).tabular_versions.champion(app)
    later = "" if now is None or now.ref == result["model"] else f" when the run ended; the champion is now {now.ref}"
    echo(f"served     {result['model']}{later}")
    echo(f"took       {sum(step.seconds for step in done.steps):.0f} s in {len(done.steps)} steps")
    echo(f"Look further: llmops ui · llmops factsheet {result['model']} · llmops pipeline show {done.ref}")
    echo(f"              llmops audit list --app {app} · llmops lab {lab} serve · docs/labs/{lab}.md")


def _show_windows(kind: type[Lab], windows: Sequence[_Json]) -> None:
    """What was found in each window. What the monitor compared has a column where it is another measure."""
    both = kind.compared_name != kind.error_name
    columns = (
        "window", "rows#", "served by", f"{kind.error_name}#", *([f"{kind.compared_name}#"] if both else []),
        "reference#", "drifted#", "alarm",
    )  # fmt: skip
    rows = [
        (
            each["window"], each["rows"], each["served_by"], number(each["error"]),
            *([number(each["compared_error"])] if both else []), number(each["reference"]["error"]),
            len(each["drifted"]) or "", "ALARM" if each["alarm"] else "",
        )
        for each in windows
    ]  # fmt: skip
    print_table("Windows, in order", columns, rows)
    echo(f"reference  {kind.compared_name} of rows that the version was not trained on")
    echo("drifted    number of columns that differ from those rows; the prediction counts as one")


def _alarm_lines(window: _Json) -> Iterator[str]:
    """Why a window alarmed, and what drifted in it where that does not say so already."""
    told = [f"{window['window']:<11}{window['why']}"]
    if not set(window["drifted"][:_MOST_NAMED]) <= set(re.findall(r"[^\s,;:()]+", window["why"])):
        told.append(f"{_MARGIN}drifted: {listed(window['drifted'], _MOST_NAMED)}")
    for text in told:
        yield from textwrap.wrap(
            text, _WIDTH, subsequent_indent=_MARGIN, break_long_words=False, break_on_hyphens=False
        )


def _show_quality(data: _Json, quality: _Json) -> None:
    read, kept_rows = quality["rows_read"], quality["rows_kept"]
    kept = f"{kept_rows} of {read} rows kept" if kept_rows <= read else f"{kept_rows} rows made of {read}"
    echo(f"data       {data['source']}, sha256 {data['sha256'][:12]}…, {kept}")
    for finding in quality["findings"]:
        column = f"{finding['column']}: " if finding.get("column") else ""
        echo(f"           {finding['kind']:8} {finding['count']:>6}  {column}{finding['what']}")


def _show_metric(metric: _Json, gate: _Json) -> None:
    shown = f"{number(metric['value'])} ({interval(metric['ci95'])})"
    echo(f"model      {metric['candidate']}: {metric['name']} {shown}, baseline {number(metric['baseline'])}")
    echo(f"gate       {gate['verdict']} (compared with {gate['compared_with']})")
    for reason in gate["reasons"]:
        echo(f"           {reason}")


def _show_findings(findings: Sequence[_Json]) -> None:
    """The lab's own tables."""
    for each in findings:
        rows = [[number(cell) if isinstance(cell, float) else cell for cell in row] for row in each["rows"]]
        print_table(each["title"], each["columns"], rows)
        echo(each["told"])


def _show_step(name: str, step: str, done: _Json) -> None:
    """What a step by hand found, and which one comes next."""
    following = None
    if step == "data":
        _show_quality(done["data"], done["quality"])
        following = "train"
    elif step == "train":
        _show_candidates(done)
        following = "register"
    elif step == "register" and done["champion"] is None:
        echo(f"not promoted: {'; '.join(done['reasons'])}")
        following = f"monitor, which goes on with {done['kept']}" if done["kept"] else None
    elif step == "register":
        echo(f"{done['champion']} is the champion (was {done['previous'] or 'none'}), and the gateway serves it")
        following = f"serve, or llmops lab {name} monitor"
    elif step == "monitor":
        echo(f"{done['window']}: {done['rows']} rows answered by {done['served_by']}: {done['state']}")
        echo(f"           {done['why']}")
        if done["drifted"]:
            echo(f"drifted    {listed(done['drifted'], _MOST_NAMED)}")
        following = "retrain" if done["alarm"] else "monitor"
    else:
        echo(f"{done['at']}: {done['from']} → {done['to'] or 'the same'}: {done['why']}")
        following = "monitor"
    if following is not None:
        echo(f"next: llmops lab {name} {following}")


def _show_candidates(done: _Json) -> None:
    metric = done["metric"]["name"]
    columns = ("candidate", "cross-validation loss#", f"{metric}#", "95 % interval", "parameters")
    rows = [
        (
            each["candidate"],
            number(each["cross_validation_loss"]),
            number(each["metrics"][metric]["value"]),
            interval(each["metrics"][metric]["ci95"]),
            ", ".join(f"{name}={value}" for name, value in each["parameters"].items()) or "none",
        )
        for each in done["trained"]["models"]
    ]
    print_table("Candidates, judged on rows held out", columns, rows)
    _show_metric(done["metric"], done["gate"])
    _show_findings(done["trained"]["findings"])
