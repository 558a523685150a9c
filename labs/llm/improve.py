"""From alarms to a better release: the answers that raised them are reviewed and learned from, and what comes of it
goes the common way.

```
alarms → review … a person decides … → training set → fine-tune or optimize → register → evaluate → gate → canary → …
```

People take their time, so no cycle waits for them: it learns from what was decided since the last one, in any review
file of the app. Those files and the training set hold what users wrote, and lie in the home, readable by its owner.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from labs.llm.pipeline import Inputs, LlmSteps, Text, completed, release
from llmops.cli.output import say
from llmops.errors import BadFile, CannotRun, UsageError
from llmops.pages.numbers import counted
from llmops.pipelines import Pipeline, Steps
from llmops.prompt_file import parse_prompt
from llmops.settings import Settings
from llmops.state_files import make_private_folder
from llmops.text_io import checked, read_json, read_text, read_toml, replace_text

NAME = "improve"
_FINETUNE, _OPTIMIZE = "fine-tune", "optimize"

Json = Mapping[str, Any]
Plan = Mapping[str, Any]
"""What `find` found: `app`, `champion`, `prompt`, `model`, `input_variable`, `suite`, `alarms`, and `how` to improve:
`fine-tune` or `optimize`, by `recipe`."""


class ImproveInputs(Inputs):
    """suite: what is evaluated and gated; by default that of the champion's last gate. recipe: a TOML file of
    `llmops finetune`, or one that names an `optimizer`; by default the recipe that the champion's model was made by.
    evidence: a file of the monitor that names the alarms; by default the app's present ones. dry_run: only says what
    would be done."""

    suite: Text | None = Field(None, title="text")
    recipe: Text | None = Field(None, title="text")
    evidence: Text | None = Field(None, title="text")
    dry_run: bool = Field(True, title="true or false")


def pipeline(settings: Settings, what: str = "", work: ImproveSteps | None = None) -> Pipeline:
    """The pipeline `improve`. what: it does, in a line. work: other steps than the settings' own, for a test."""
    chosen = work or ImproveSteps(settings)
    complete = lambda inputs: completed(inputs, ImproveInputs, NAME)  # noqa: E731
    return Pipeline(NAME, lambda steps, inputs: _run(chosen, steps, inputs), what, complete, _default_cycle)


def _default_cycle(inputs: Json) -> str:
    """A dry run, which leaves nothing behind, is a cycle of its own each time."""
    now = datetime.now(UTC)
    return f"dry-run-{now:%Y-%m-%dT%H%M%S}" if inputs["dry_run"] else f"{now:%Y-%m-%d}"


def _run(work: ImproveSteps, steps: Steps, given: Json) -> dict[str, Any]:
    plan = steps.do("alarms", work.find, *(given[name] for name in ("app", "suite", "recipe", "evidence")))
    found: dict[str, Any] = {"alarms": plan["alarms"]}

    def result(verdict: str, outcome: str, told: str) -> dict[str, Any]:
        return {"verdict": verdict, "outcome": outcome, "told": told, "champion": plan["champion"], **found}

    dry = given["dry_run"]
    review = found["review"] = steps.do("review", work.open_review, plan, steps.cycle, dry)
    learned = found["learned"] = steps.do("training set", work.take_reviewed, plan, steps.cycle, dry)
    waits = f"{counted(learned['undecided'], 'row')} to review in {learned['folder']}"
    if dry:
        new = f"have {counted(review['rows'], 'row')} of {counted(len(plan['alarms']), 'alarm')} reviewed"
        then = f"{plan['how']} with {counted(learned['taken'], 'reviewed row')} more"
        rest = f"and {then}" if learned["taken"] else "and learn nothing yet: no reviewed row is new"
        return result("pass", "dry run", f"would {new}, {rest}; --set dry_run=false does it")
    if not learned["taken"]:
        if learned["undecided"]:
            return result("inconclusive", "waits for review", f"{waits}; a later cycle learns from those you accept")
        return result("pass", "unchanged", f"no alarm of {plan['app']} named a row that is not reviewed yet")
    better = steps.do(plan["how"], work.improve, plan, learned["folder"])
    found["improved"] = better
    if better["verdict"] != "pass":
        return result(better["verdict"], "not improved", better["told"])
    ended = release(work, steps, {**given, **{name: better[name] for name in ("suite", "prompt", "model")}})
    return {**ended, **found}


class ImproveSteps(LlmSteps):
    """The steps before the release."""

    def find(self, app: str, suite: str | None, recipe: str | None, evidence: str | None) -> dict[str, Any]:
        """The alarms about the champion, but for those about its speed; and the recipe.

        Raises CannotRun: there is no champion, or no suite is known; BadFile, UsageError, StoreUnavailable.
        """
        releases = self._registry.release_versions
        champion = releases.champion(app)
        if champion is None:
            raise CannotRun(f"{app} has no champion to improve")
        if suite is None and (newest := releases.newest_gate(champion)) is not None:
            suite, _ = newest
        if suite is None:
            raise CannotRun(f"{champion.ref} has no gate on record: name a suite with --set suite=SUITE")
        alarms = self._alarms(app) if evidence is None else _alarms_in(Path(evidence))
        concerned = [each for each in alarms if each["release"] in (champion.ref, None) and each["side"] != "service"]
        plan = {
            "app": app,
            "suite": suite,
            "champion": champion.ref,
            "prompt": champion.prompt.ref,
            "model": champion.model.ref,
            "input_variable": champion.prompt.template.input_variable,
            "alarms": [{name: each[name] for name in ("id", "what", "kind", "why", "rows")} for each in concerned],
        }
        return {**plan, **self._how(plan, None if recipe is None else Path(recipe))}

    def open_review(self, plan: Plan, cycle: str, dry: bool) -> dict[str, Any]:
        """A review file with the answers that the alarms name, but for those that were put into one before. Raises
        BadFile, CannotRun, StoreUnavailable."""
        from llmops.eval_runs.eval_set_from_log import (
            RecordChoice,
            ReviewCounts,
            present_rows,
            read_review,
            review_lines,
        )
        from llmops.production_log import ProductionLog

        folder = self._folder(plan)
        path = folder / f"{cycle}.jsonl"
        if path.exists():
            return {"file": str(path), "rows": sum(1 for _ in read_review(path))}
        known = [*present_rows(folder / "training"), *(row for _, row, _ in self._reviews(folder))]
        asked = dict.fromkeys(request_id for alarm in plan["alarms"] for request_id in alarm["rows"])
        with closing(ProductionLog(self._settings.resolved_log_url)) as log:
            records = (record for name in asked for record in log.read(app=plan["app"], request_id=name, feedback=True))
            choice = RecordChoice(input_variable=plan["input_variable"])
            lines = list(review_lines(records, known, choice, counts := ReviewCounts()))
        if dry or not lines:
            return {"file": None, "rows": len(lines), **counts.to_json()}
        make_private_folder(folder)
        replace_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))
        return {"file": str(path), "rows": len(lines), **counts.to_json()}

    def take_reviewed(self, plan: Plan, cycle: str, dry: bool) -> dict[str, Any]:
        """Adds the accepted rows of all review files to the app's training set. `taken` counts those that this cycle
        added. Raises BadFile, CannotRun."""
        from llmops.eval_runs.eval_set_from_log import append_rows, present_rows

        folder = self._folder(plan)
        present = {row.id: row for row in present_rows(folder / "training")}
        decisions, new = Counter[bool | None](), []
        for _, row, accept in self._reviews(folder):
            decisions[accept] += 1
            if accept and row.id not in present:
                new.append(replace(row, tags={**row.tags, "cycle": cycle}))
        if not dry:
            append_rows(folder / "training", new)
        taken = len(new) + sum(row.tags.get("cycle") == cycle for row in present.values())
        told = {"taken": taken, "rows": len(present) + len(new)}
        return {"folder": str(folder), **told, "refused": decisions[False], "undecided": decisions[None]}

    def improve(self, plan: Plan, folder: str) -> dict[str, Any]:
        """A model version or a prompt version that was made with the training set. Raises as `llmops.finetune` and
        `llmops.optimize`."""
        training = str(Path(folder) / "training")
        made = {"verdict": "pass", **{name: plan[name] for name in ("suite", "prompt", "model")}}
        if plan["how"] == _FINETUNE:
            from llmops.finetuning.finetune import finetune

            recipe = {**plan["recipe"], "train": [*plan["recipe"].get("train", ()), training]}
            tuned = finetune(tell=say, settings=self._settings, **recipe)
            return {**made, "model": tuned.version.ref, "run_id": tuned.run_id, "rows": tuned.counts.to_json()}
        from llmops.optimizing.optimization import optimize

        asked = {name: plan[name] for name in ("prompt", "model")}
        optimized = optimize(plan["suite"], pool=training, settings=self._settings, **asked, **plan["recipe"])
        if not optimized.passed or optimized.file is None:
            verdict = "fail" if optimized.held_out is None else optimized.held_out["verdict"]
            told = f"no prompt was better than {plan['prompt']} on held-out rows (run {optimized.run_id})"
            return {**made, "verdict": verdict, "told": told, "run_id": optimized.run_id}
        file = Path(optimized.file)
        prompt, _ = self._registry.prompts.register(file.parent.name, parse_prompt(read_text(file), file))
        return {**made, "prompt": prompt.ref, "run_id": optimized.run_id}

    def _folder(self, plan: Plan) -> Path:
        return self._settings.improve_dir / str(plan["app"])

    @staticmethod
    def _reviews(folder: Path) -> Any:
        """The rows of all review files, the older files first."""
        from llmops.eval_runs.eval_set_from_log import read_review

        for path in sorted(folder.glob("*.jsonl"), key=lambda path: (path.stat().st_ctime_ns, path.name)):
            yield from read_review(path)

    def _alarms(self, app: str) -> list[Json]:
        from monitoring.act.alarm_book import AlarmBook
        from monitoring.act.alerts import AlertSettings
        from monitoring.act.outbox import Outbox
        from monitoring.store.database import open_database

        engine = open_database(self._settings.resolved_log_url)
        try:
            book = AlarmBook(engine, AlertSettings(), Outbox(engine, ()))
            return [entry.to_json() for entry in book.entries(app=app)]
        finally:
            engine.dispose()

    def _how(self, plan: Plan, file: Path | None) -> dict[str, Any]:
        """The way to improve, and its recipe, checked now: it may be needed only days later."""
        from llmops.finetuning.recipe import make_recipe
        from llmops.optimizing.candidates import SearchOptions

        if file is not None:
            values = read_toml(file)
        else:
            of_model = self._registry.models.get(plan["model"]).provenance
            values = {**tomllib.loads(of_model["recipe"]), "prompt": plan["prompt"]} if "recipe" in of_model else {}
        try:
            if "optimizer" in values:
                checked(SearchOptions, values)
                return {"how": _OPTIMIZE, "recipe": values}
            given = {"model": plan["model"], "suite": plan["suite"], "prompt": plan["prompt"], **values}
            training = str(self._folder(plan) / "training")
            given["train"] = [name for name in given.get("train", ()) if name != training]
            make_recipe({**given, "train": [*given["train"], training]})
        except UsageError as error:
            raise error if file is None else BadFile.of(error, file) from error
        return {"how": _FINETUNE, "recipe": given}


def _alarms_in(path: Path) -> list[Json]:
    """The alarms of an evidence file, as the monitor writes it for a retrain command."""
    evidence = read_json(path)
    try:
        names = "id", "what", "kind", "side", "why", "rows", "release"
        return [{name: each[name] for name in names} for each in evidence["alarms"]]
    except (TypeError, KeyError) as error:
        raise BadFile(path, "must be evidence of the monitor: alarms with their rows", field="alarms") from error
