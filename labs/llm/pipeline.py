"""The LLM lifecycle as a pipeline: register, evaluate, gate, canary, monitor, then promote or roll back.

Arguments and results of each step are JSON, and a step that is done twice does no harm.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from llmops.engines.opening import check_parameters
from llmops.errors import CannotRun, UnknownVersion, UsageError
from llmops.pipelines import Pipeline, Steps
from llmops.prompt_file import load_prompt_folder
from llmops.settings import Settings, data_folder
from llmops.traffic_policy import TrafficPolicy, parse_share
from llmops.versions import CHALLENGER, Ref

if TYPE_CHECKING:
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.registry import Registry

NAME = "llm"
_LEAST_ROWS = 20
"""Below it the monitor gives no verdict."""
POLL_SECONDS = 10.0

Plan = Mapping[str, Any]
"""What `register` found: `app`, `challenger`, `champion` (releases; None without a champion), `traffic` (the policy
that was in force; None without one), `rolled_back` (the move by which the challenger was, if it was)."""


def _share(value: Any) -> float:
    share = parse_share("canary", str(value))
    if not share:
        raise UsageError("canary: must be more than 0: the challenger answers this share of the traffic")
    return share


def _names(value: Any) -> Any:
    """A list, or text with commas."""
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


Text = Annotated[str, Field(min_length=1, title="text")]


class Inputs(BaseModel):
    """What every cycle that releases is given; `title` says what each must be.

    app: whose release it is.
    canary: share of plain traffic.
    minimum_rows: requests that the challenger must have answered before the monitor looks.
    deadline_seconds: how long to wait for them.
    accept: descriptors of the monitor that may be worse, such as `first_token_ms` where a longer prompt is wanted.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    app: Text = "assistant"
    canary: Annotated[float, BeforeValidator(_share)] = 0.1
    minimum_rows: int = Field(200, ge=_LEAST_ROWS, title=f"a whole number of at least {_LEAST_ROWS}")
    deadline_seconds: float = Field(86_400.0, ge=0, allow_inf_nan=False, title="a number of seconds")
    accept: Annotated[list[Text], BeforeValidator(_names)] = Field([], title="names of descriptors")


class LlmInputs(Inputs):
    """suite: what is evaluated and gated. prompt: `NAME@V`, by default the newest version of the suite's. model:
    `NAME@V`, by default the suite's."""

    suite: Text = "qa"
    prompt: Text | None = Field(None, title="text")
    model: Text | None = Field(None, title="text")


def completed(inputs: Mapping[str, Any], kind: type[Inputs] = LlmInputs, pipeline: str = NAME) -> dict[str, Any]:
    """Inputs with their defaults. Raises UsageError: an unknown input, or one of a wrong kind."""
    try:
        return kind.model_validate(dict(inputs)).model_dump()
    except ValidationError as error:
        name = str(error.errors()[0]["loc"][0])
        if name not in kind.model_fields:
            known = ", ".join(kind.model_fields)
            raise UsageError(f"{name}: no input of pipeline {pipeline}; there are {known}") from error
        wanted = kind.model_fields[name].title
        raise UsageError(f"{name}: must be {wanted}, not {inputs[name]!r}") from error


def pipeline(settings: Settings, what: str = "", work: LlmSteps | None = None) -> Pipeline:
    """The pipeline `llm`. what: it does, in a line. work: other steps than the settings' own, for a test."""
    chosen = work or LlmSteps(settings)
    return Pipeline(NAME, lambda steps, inputs: release(chosen, steps, inputs), what, completed)


def release(work: LlmSteps, steps: Steps, given: Mapping[str, Any]) -> dict[str, Any]:
    """One cycle: which step comes after which finding. given: as `LlmInputs`."""
    plan = steps.do("register", work.register, *(given[name] for name in ("suite", "app", "prompt", "model")))
    challenger, champion = plan["challenger"], plan["champion"]
    found: dict[str, Any] = {}

    def result(verdict: str, outcome: str, told: str) -> dict[str, Any]:
        names = ("app", "challenger", "champion")
        kept = {name: plan[name] for name in names}
        return {"verdict": verdict, "outcome": outcome, "told": f"{challenger} {told}", **kept, **found}

    if challenger == champion:
        return result("pass", "unchanged", "serves already: nothing changed")
    if (moved := plan.get("rolled_back")) is not None:  # absent from cycles that an older version began
        told = f"was rolled back at {moved['at']}; change it, or `llmops promote` it with --force --why TEXT"
        return result("fail", "not promoted", told)
    steps.do("evaluate", work.evaluate, given["suite"], plan)
    gate = found["gate"] = steps.do("gate", work.gate, given["suite"], plan)
    if gate["verdict"] != "pass":
        told = f"is not promoted: the gate says {gate['verdict']}: {'; '.join(gate['reasons'])}"
        return result(gate["verdict"], "not promoted", told)
    why, found["monitor"] = "the gate passed, and there was no champion to compare with", None
    if champion is not None:
        canary = steps.do("canary", work.canary, plan, given["canary"])
        look = [given[name] for name in ("minimum_rows", "deadline_seconds", "accept")]
        seen = found["monitor"] = steps.do("monitor", work.monitor, plan, canary, *look)
        why = seen["why"]
        if seen["verdict"] != "pass":
            steps.do("roll back", work.roll_back, plan)
            return result(seen["verdict"], "rolled back", f"was withdrawn, {champion} serves: {why}")
    steps.do("promote", work.promote, plan)
    steps.do("renew the monitor's reference", work.renew_reference, plan)
    return result("pass", "promoted", f"is the champion: {why}")


class LlmSteps:
    """Opens the registry when a step first needs it. now, nap: the clock, and what waits for canary traffic."""

    def __init__(
        self,
        settings: Settings,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        nap: Callable[[float], object] = lambda seconds: threading.Event().wait(seconds),
    ) -> None:
        self._settings, self._now, self._nap = settings, now, nap

    @cached_property
    def _evaluations(self) -> Evaluations:
        from llmops.eval_runs.evaluations import Evaluations
        from llmops.registry import Registry

        return Evaluations(self._settings, Registry(self._settings))

    @property
    def _registry(self) -> Registry:
        return self._evaluations.registry

    def register(self, suite_name: str, app: str, prompt: str | None, model: str | None) -> dict[str, Any]:
        """Prompt files whose content is new, the model where it is missing, and the release of both.

        Raises BadFile, UnknownVersion, UsageError, CannotRun, StoreUnavailable.
        """
        from llmops.registry import model_registration, rolled_back

        suite, registry = self._evaluations.suite(suite_name), self._registry
        folder = data_folder(self._settings, "prompts") / suite.prompt
        for _, template in load_prompt_folder(folder) if folder.is_dir() else ():
            registry.prompts.register(suite.prompt, template)
        if prompt is not None:
            chosen = registry.prompts.get(prompt)
        elif versions := registry.prompts.versions(suite.prompt):
            chosen = versions[-1]
        else:
            unknown = f"prompt {suite.prompt!r} is not registered and has no file"
            raise UnknownVersion(f"{unknown}; see `llmops prompts register`")
        wanted = model or suite.model
        try:
            model_version = registry.models.get(wanted)
        except UnknownVersion:
            model_registration.pull(self._settings, registry, Ref.parse(wanted).name, lambda _text: None)
            model_version = registry.models.get(wanted)
        check_parameters(model_version, self._settings, chosen.template.parameters)
        release, _ = registry.release_versions.create(app, chosen, model_version, chosen.template.parameters)
        champion, policy = registry.release_versions.champion(app), registry.release_versions.policy(app)
        return {
            "app": app,
            "challenger": release.ref,
            "champion": None if champion is None else champion.ref,
            "prompt": release.prompt.ref,
            "model": release.model.ref,
            "traffic": None if policy is None else policy.to_mapping(),
            "rolled_back": rolled_back(registry.release_versions.history(app)).get(release.ref),
        }

    def evaluate(self, suite_name: str, plan: Plan) -> dict[str, Any]:
        """Challenger and champion on the suite; complete runs are used again, finished answers too.

        Raises BadFile, EngineError, StoreUnavailable, RecordingIncomplete.
        """
        from llmops.eval_runs.evaluations import RunOptions

        suite = self._evaluations.suite(suite_name)
        releases = [ref for ref in (plan["champion"], plan["challenger"]) if ref is not None]
        cells = self._evaluations.cells(suite, releases=releases)
        done = self._evaluations.run(suite, cells, RunOptions(), lambda _what, _done, _total: None)
        runs = {release: item.run for release, item in zip(releases, done, strict=True)}
        means = {release: {name: metric.mean for name, metric in run.metrics.items()} for release, run in runs.items()}
        return {
            "runs": {
                release: {"run_id": run.run_id, "rows": run.rows, "metrics": means[release]}
                for release, run in runs.items()
            }
        }

    def gate(self, suite_name: str, plan: Plan) -> dict[str, Any]:
        """The suite's gate, whose verdict is then on record. Raises UnknownVersion, CannotRun, StoreUnavailable."""
        verdict = self._evaluations.gate(plan["challenger"], plan["champion"], suite_name).verdict
        return {"suite": suite_name, "verdict": verdict.verdict, "reasons": list(verdict.reasons)}

    def canary(self, plan: Plan, share: float) -> dict[str, Any]:
        """The challenger gets its share of plain traffic. Raises CannotRun: another release is the challenger."""
        registry, challenger = self._registry, plan["challenger"]
        other = self._holder(plan["app"], CHALLENGER)
        if other not in (None, challenger):
            raise CannotRun(f"{other} is the challenger already; first `llmops release withdraw {plan['app']}`")
        policy = TrafficPolicy.from_mapping({**(plan["traffic"] or {}), "canary": share})
        since = self._now()
        registry.release_versions.set_policy(plan["app"], policy)
        registry.release_versions.challenge(registry.release_versions.get(challenger))
        return {"since": since.isoformat(), "traffic": policy.to_mapping()}

    def monitor(
        self, plan: Plan, canary: Plan, minimum_rows: int, deadline_seconds: float, accepted: Sequence[str] = ()
    ) -> dict[str, Any]:
        """Waits for the canary's traffic, then compares challenger and champion on it, once.

        `inconclusive`: too few requests by the deadline, questions that differ between both, or somebody has withdrawn
        the challenger. Raises BadFile (the monitor's configuration), StoreUnavailable.
        """
        from monitoring.canary import look, seen, too_few
        from monitoring.stores import opened

        since = datetime.fromisoformat(canary["since"])
        deadline = since + timedelta(seconds=deadline_seconds)
        with opened(self._settings) as stores:
            while True:
                if self._holder(plan["app"], CHALLENGER) != plan["challenger"]:
                    return seen("inconclusive", f"{plan['challenger']} is no challenger any more")
                until = self._now()
                stores.ingest()
                if (verdict := look(stores, plan["app"], since, until, minimum_rows, accepted)) is not None:
                    return verdict
                if until >= deadline:
                    return seen("inconclusive", too_few(stores, plan["app"], since, until, minimum_rows))
                self._nap(min(POLL_SECONDS, (deadline - until).total_seconds()))

    def promote(self, plan: Plan) -> dict[str, Any]:
        """The challenger becomes the champion, and the traffic policy is again what it was.

        Raises GateRefused: meanwhile there is another champion. StoreUnavailable.
        """
        books = self._registry.release_versions
        books.promote(books.get(plan["challenger"]))
        return {"champion": plan["challenger"], "previous": plan["champion"], "traffic": self._restore_traffic(plan)}

    def renew_reference(self, plan: Plan) -> dict[str, Any]:
        """Tells the monitor of the promotion, which stands also where that fails."""
        from llmops.api.versions import renew_reference

        release = self._registry.release_versions.get(plan["challenger"])
        return renew_reference(self._settings, self._registry, release, plan["champion"])[0]

    def roll_back(self, plan: Plan) -> dict[str, Any]:
        """The challenger is withdrawn, and the traffic policy is again what it was. Raises StoreUnavailable."""
        withdrawn = self._holder(plan["app"], CHALLENGER) == plan["challenger"]
        if withdrawn:
            self._registry.release_versions.withdraw(plan["app"])
        return {"withdrawn": withdrawn, "traffic": self._restore_traffic(plan)}

    def _holder(self, app: str, alias: str) -> str | None:
        releases = self._registry.release_versions.versions(app)
        return next((release.ref for release in releases if alias in release.aliases), None)

    def _restore_traffic(self, plan: Plan) -> Any:
        before = plan["traffic"]
        policy = None if before is None else TrafficPolicy.from_mapping(before)
        self._registry.release_versions.set_policy(plan["app"], policy)
        return before
