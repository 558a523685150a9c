"""The steps of the LLM lifecycle. Arguments and results are JSON, and a step that is done twice does no harm."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from llmops.engines.opening import check_parameters
from llmops.errors import CannotRun, LlmopsError, UnknownVersion
from llmops.prompt_file import load_prompt_folder
from llmops.settings import Settings, prompts_folder
from llmops.traffic_policy import TrafficPolicy
from llmops.versions import CHALLENGER, ModelVersion, Ref, Release

if TYPE_CHECKING:
    from llmops.eval_runs.evaluations import Evaluations
    from llmops.registry import Registry

Plan = Mapping[str, Any]
"""What `register` found: `app`, `challenger`, `champion` (releases; None without a champion), `traffic` (the policy
that was in force; None without one), `rolled_back` (the move by which the challenger was, if it was)."""
POLL_SECONDS = 10.0


def _now() -> datetime:
    return datetime.now(UTC)


def _nap(seconds: float) -> None:
    threading.Event().wait(seconds)


class LlmSteps:
    """Opens the registry when a step first needs it. now, nap: the clock, and what waits for canary traffic."""

    def __init__(
        self, settings: Settings, now: Callable[[], datetime] = _now, nap: Callable[[float], None] = _nap
    ) -> None:
        self._settings, self._now, self._nap = settings, now, nap
        self._opened: Evaluations | None = None

    def register(self, suite_name: str, app: str, prompt: str | None, model: str | None) -> dict[str, Any]:
        """Prompt files whose content is new, the model where it is missing, and the release of both.

        Raises BadFile, UnknownVersion, UsageError, CannotRun, StoreUnavailable.
        """
        from llmops.registry import rolled_back

        suite, registry = self._evaluations.suite(suite_name), self._registry
        folder = prompts_folder(self._settings) / suite.prompt
        for _, template in load_prompt_folder(folder) if folder.is_dir() else ():
            registry.prompts.register(suite.prompt, template)
        chosen = registry.prompts.get(prompt or self._newest_prompt(suite.prompt))
        model_version = self._model(model or suite.model)
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
        return {
            "runs": {
                release: {
                    "run_id": item.run.run_id,
                    "rows": item.run.rows,
                    "metrics": {name: metric.mean for name, metric in item.run.metrics.items()},
                }
                for release, item in zip(releases, done, strict=True)
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
        self,
        plan: Plan,
        canary: Mapping[str, Any],
        minimum_rows: int,
        deadline_seconds: float,
        accepted: Sequence[str] = (),
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
                if (found := look(stores, plan["app"], since, until, minimum_rows, accepted)) is not None:
                    return found
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
        from monitoring import PinnedReference, pin_at_promotion
        from monitoring.gate_answers import gate_answers

        release = self._registry.release_versions.get(plan["challenger"])
        try:
            found = pin_at_promotion(
                self._settings, release.ref, plan["champion"], lambda: gate_answers(self._registry, release)
            )
        except LlmopsError as error:
            return {"pinned": False, "why": str(error)}
        pinned = isinstance(found, PinnedReference)
        return {"pinned": pinned, "why": found.why if isinstance(found, PinnedReference) else "first window awaited"}

    def roll_back(self, plan: Plan) -> dict[str, Any]:
        """The challenger is withdrawn, and the traffic policy is again what it was. Raises StoreUnavailable."""
        withdrawn = self._holder(plan["app"], CHALLENGER) == plan["challenger"]
        if withdrawn:
            self._registry.release_versions.withdraw(plan["app"])
        return {"withdrawn": withdrawn, "traffic": self._restore_traffic(plan)}

    @property
    def _evaluations(self) -> Evaluations:
        if self._opened is None:
            from llmops.eval_runs.evaluations import Evaluations
            from llmops.registry import Registry

            self._opened = Evaluations(self._settings, Registry(self._settings))
        return self._opened

    @property
    def _registry(self) -> Registry:
        return self._evaluations.registry

    def _newest_prompt(self, name: str) -> str:
        versions = self._registry.prompts.versions(name)
        if not versions:
            raise UnknownVersion(f"prompt {name!r} is not registered and has no file; see `llmops prompts register`")
        return versions[-1].ref

    def _model(self, ref: str) -> ModelVersion:
        from llmops.registry import model_registration as models

        try:
            return self._registry.models.get(ref)
        except UnknownVersion:
            models.pull(self._settings, self._registry, Ref.parse(ref).name, lambda _text: None)
            return self._registry.models.get(ref)

    def _holder(self, app: str, alias: str) -> str | None:
        releases: list[Release] = list(self._registry.releases(app))
        return next((release.ref for release in releases if alias in release.aliases), None)

    def _restore_traffic(self, plan: Plan) -> Any:
        before = plan["traffic"]
        if before is None:
            self._registry.release_versions.set_policy(plan["app"], None)
        else:
            self._registry.release_versions.set_policy(plan["app"], TrafficPolicy.from_mapping(before))
        return before
