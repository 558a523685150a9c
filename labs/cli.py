"""`llmops lab`: the warm-up labs, whole or step by step."""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from llmops.cli.output import echo, emit, interval, json_option, number, print_table, say
from llmops.settings import Settings

if TYPE_CHECKING:
    from labs.lab import Lab
    from llmops.pipelines import PipelineRun

_LABS = {"wine": ("labs.wine.lab", "WineLab"), "bike": ("labs.bike.lab", "BikeLab")}
_STEPS = ("data", "train", "register", "serve", "monitor", "retrain")
_FIRST_CYCLE = "first"
_MOST_NAMED = 6
_WIDTH = 100
_MARGIN = " " * 11

_Json = Mapping[str, Any]


def _lab(name: str, settings: Settings, source: str | None, cycle: str) -> Lab:
    module, kind = _LABS[name]
    made: Lab = getattr(importlib.import_module(module), kind)(settings, source=source, cycle=cycle)
    return made


@click.command()
@click.argument("name", type=click.Choice(list(_LABS)))
@click.argument("step", type=click.Choice(_STEPS), required=False)
@click.option("--source", metavar="file:PATH", help="Data file; default: the catalogue's.")
@click.option(
    "--cycle", default=_FIRST_CYCLE, show_default=True, help="Name of the run; a new name starts the lab afresh."
)
@click.option("--window", help="With `monitor`: this window instead of the next.")
@json_option
def command(name: str, step: str | None, source: str | None, cycle: str, window: str | None, as_json: bool) -> None:
    """Run a warm-up lab: all five parts (data, model, deploy, monitor, automate), or one STEP by hand.

    The whole lab is a pipeline: if it is interrupted, the same command continues; once finished, it shows the results.
    Exits 0 when every step finished, whatever the results.

    \b
    Example: llmops lab bike
    Example: llmops lab wine train
    """
    settings = Settings.from_environment()
    if step is None:
        done = _whole(name, settings, source, cycle)
        emit(as_json, contract(done), lambda: _show_whole(done))
    elif step == "serve":
        _serve(name, as_json)
    else:
        _by_hand(name, step, settings, source, window, as_json)


def _whole(name: str, settings: Settings, source: str | None, cycle: str) -> PipelineRun:
    from labs.pipeline_cli import make_pipeline, open_pipelines

    with open_pipelines(settings) as pipelines:
        return pipelines.run(make_pipeline(name, settings), {"source": source}, cycle=cycle)


def contract(done: PipelineRun) -> dict[str, Any]:
    """The lab's JSON."""
    found = dict(done.result)
    steps = [{"name": step.name, "status": step.status, "seconds": round(step.seconds, 2)} for step in done.steps]
    return {"retrained": [], "monitoring": [], **found, "cycle": done.cycle, "steps": steps}


def _show_whole(done: PipelineRun) -> None:
    found = done.result
    _show_quality(found["data"], found["quality"])
    _show_metric(found["metric"], found["gate"])
    if found["model"] is None:
        echo(found["told"])
        return
    lab = found["lab"]
    columns = ("window", "rows#", "served by", "error#", "compared#", "reference#", "drifted#", "alarm")
    rows = [
        (
            each["window"], each["rows"], each["served_by"], number(each["error"]), number(each["compared_error"]),
            number(each["reference"]["error"]), len(each["drifted"]) or "", "ALARM" if each["alarm"] else "",
        )
        for each in found["monitoring"]
    ]  # fmt: skip
    if rows:
        compared = found["monitoring"][0]["compared_by"]
        title = f"Monitored windows (compared by {compared}, a champion's windows with rows it was not fitted on)"
        print_table(title, columns, rows)
    else:
        echo(f"monitored  no window: {found['model']} was trained on the last one")
    for each in found["monitoring"]:
        if each["alarm"]:
            echo("\n".join(_alarm_lines(each)))
    for each in found["retrained"]:
        echo(f"retrained  {each['at']}: {each['from']} → {each['to']}, {_gained(each)}")
    echo(f"served     {found['model']}")
    echo(f"took       {sum(step.seconds for step in done.steps):.0f} s in {len(done.steps)} steps")
    echo(f"Look further: llmops ui · llmops factsheet {found['model']} · llmops pipeline show {done.ref}")
    echo(f"              llmops audit list --app {lab} · llmops lab {lab} serve · docs/labs/{lab}.md")


def _alarm_lines(window: _Json) -> Iterator[str]:
    """Why a window alarmed, and what drifted in it where that does not say so already."""
    yield from _wrapped(f"{window['window']:<11}{window['why']}")
    names = window["drifted"][:_MOST_NAMED]
    if not set(names) <= set(re.findall(r"[^\s,;:()]+", window["why"])):
        yield from _wrapped(f"{_MARGIN}drifted: {_some(window['drifted'])}")


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=_MARGIN, break_long_words=False, break_on_hyphens=False)


def _some(names: Sequence[str]) -> str:
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")


def _gained(promotion: _Json) -> str:
    if promotion["error_before"] is None:
        return "no window follows"
    before, after = number(promotion["error_before"]), number(promotion["error_after"])
    return f"error in the {len(promotion['windows'])} windows it served since: {before} → {after}"


def _show_quality(data: _Json, quality: _Json) -> None:
    kept = f"{quality['rows_kept']} of {quality['rows_read']} rows kept"
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


def _serve(name: str, as_json: bool) -> None:
    """In the foreground, as `llmops serve`."""
    from service.serve import serve

    if as_json:
        raise click.UsageError("serve runs until Ctrl-C; it has no --json")
    serve(on_serving=lambda url: say(f"rows and an example: curl {url}/v1/predict/{name}/schema; stop with Ctrl-C"))


def _by_hand(name: str, step: str, settings: Settings, source: str | None, window: str | None, as_json: bool) -> None:
    from labs.by_hand import CYCLE, ByHand

    with _lab(name, settings, source, CYCLE) as lab:
        hands = ByHand(lab)
        done = hands.monitor(window) if step == "monitor" else getattr(hands, step)()
    emit(as_json, done, lambda: _SHOW[step](name, done))


def _show_data(name: str, done: _Json) -> None:
    _show_quality(done["data"], done["quality"])
    echo(f"next: llmops lab {name} train")


def _show_train(name: str, done: _Json) -> None:
    columns = ("candidate", "cross-validation loss#", f"{done['metric']['name']}#", "95 % interval", "parameters")
    metric = done["metric"]["name"]
    rows = [
        (
            each["candidate"], number(each["cross_validation_loss"]), number(each["metrics"][metric]["value"]),
            interval(each["metrics"][metric]["ci95"]), _parameters(each["parameters"]),
        )
        for each in done["trained"]["models"]
    ]  # fmt: skip
    print_table("Candidates, judged on rows held out", columns, rows)
    _show_metric(done["metric"], done["gate"])
    echo(f"next: llmops lab {name} register")


def _show_register(name: str, done: _Json) -> None:
    if done["champion"] is None:
        echo(f"not promoted: {'; '.join(done['reasons'])}")
        if done["kept"]:
            echo(f"next: llmops lab {name} monitor, which goes on with {done['kept']}")
        return
    echo(f"{done['champion']} is the champion (was {done['previous'] or 'none'}), and the gateway serves it")
    echo(f"next: llmops lab {name} serve, or llmops lab {name} monitor")


def _show_monitor(name: str, done: _Json) -> None:
    echo(f"{done['window']}: {done['rows']} rows answered by {done['served_by']}: {done['state']}")
    echo(f"           {done['why']}")
    if done["drifted"]:
        echo(f"drifted    {_some(done['drifted'])}")
    echo(f"next: llmops lab {name} {'retrain' if done['alarm'] else 'monitor'}")


def _show_retrain(name: str, done: _Json) -> None:
    echo(f"{done['at']}: {done['from']} → {done['to'] or 'the same'}: {done['why']}")
    echo(f"next: llmops lab {name} monitor")


_SHOW: dict[str, Callable[[str, _Json], None]] = {
    "data": _show_data,
    "train": _show_train,
    "register": _show_register,
    "monitor": _show_monitor,
    "retrain": _show_retrain,
}


def _parameters(values: _Json) -> str:
    return ", ".join(f"{name}={value}" for name, value in values.items()) or "none"
