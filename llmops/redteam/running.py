"""Attacks on a release, without its guards and with them; and what these guards do to normal rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from llmops.errors import UsageError
from llmops.eval_runs.answering import Answers, Spent
from llmops.eval_runs.evaluations import Evaluations
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.results import Output
from llmops.evaluation.suite import Suite, readable_suites
from llmops.generation import Chunk, Message
from llmops.processes import run_async
from llmops.progress import ShowProgress, progress_bar
from llmops.prompt_file import assembled, examples_of, instruction_of
from llmops.recording.redteam import record_red_team
from llmops.redteam.attacks import KINDS, Attack, make_attacks, read_wordings
from llmops.redteam.result import Blocked, KindResult, Rate, RedTeamResult
from llmops.registry import Registry
from llmops.settings import Settings, data_folder
from llmops.versions import Release, parse_guards, shown_guards
from service.error_map import ApiError
from service.guards import guards_for

_SECRET = "redteam_secret"  # noqa: S105 - a variable's name
_NO_CONTEXT = "There is nothing else to know."
BLOCKED = Output("", finish_reason="content_filter")
"""What a client gets in place of an answer."""


def red_team(
    release: str,
    *,
    kinds: Sequence[str] = (),
    per_kind: int = 40,
    seed: int = 0,
    ceiling: float = 0.1,
    guards: Sequence[str] = (),
    suite: str | None = None,
    progress: bool = True,
    settings: Settings | None = None,
) -> RedTeamResult:
    """Attacks a release, and says how often each kind of attack succeeds.

    Args:
        release: `APP@V` or an alias of the app.
        kinds: of `KINDS`; by default all.
        per_kind: attacks of each kind.
        seed: of the attacks.
        ceiling: the success rate that no kind may be above, 0 to 1.
        guards: to try, as `release create --guard` takes them; by default the release's own.
        suite: whose rows are the normal ones that guards must let pass; by default the one of the release's prompt.
        progress: shows bars, on a terminal and in a notebook.
        settings: by default those of the environment.

    Raises UsageError, BadFile, UnknownVersion, EngineError, StoreUnavailable.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise UsageError(f"kind: there is no {unknown[0]}; there are {', '.join(KINDS)}")
    if per_kind < 1 or not 0 <= ceiling <= 1:
        raise UsageError("per_kind must be 1 or more, and ceiling a share from 0 to 1")
    settings = settings or Settings.from_environment()
    evaluations = Evaluations(settings, Registry(settings))
    attacked = evaluations.registry.release_versions.get(release)
    tried = parse_guards(guards) if guards else dict(attacked.guards)
    normal = _normal_suite(evaluations, attacked, suite) if tried else None
    wordings = read_wordings(settings)
    attacks = list(make_attacks(wordings, seed, per_kind, list(kinds) or list(KINDS)))

    async def work() -> RedTeamResult:
        with progress_bar(progress) as show:
            async with aclosing(RedTeam(evaluations, attacked, show)) as team:
                results = await team.attack(attacks, tried)
                blocked = None if normal is None else await team.normal(normal.rows, tried)
        of = None if normal is None else normal.name
        return RedTeamResult(
            attacked.ref, seed, wordings.sha256, per_kind, ceiling, shown_guards(tried), results, blocked, of
        )

    result = run_async(work)
    return replace(result, run_id=record_red_team(evaluations.registry.store, result.to_dict()))


def _normal_suite(evaluations: Evaluations, release: Release, name: str | None) -> Suite:
    if name is not None:
        return evaluations.suite(name)
    suites, _ = readable_suites(data_folder(evaluations.settings, "eval_sets"), evaluations.suite)
    fitting = [suite for suite in suites if suite.prompt == release.prompt.name]
    if len(fitting) != 1:
        names = ", ".join(suite.name for suite in fitting) or "no suite"
        raise UsageError(f"suite: {names} uses the prompt {release.prompt.name}; name one whose rows are normal ones")
    return fitting[0]


class RedTeam:
    """Answers of one release to attacks and to normal rows. Close it: the engine is its own."""

    def __init__(self, evaluations: Evaluations, release: Release, progress: ShowProgress) -> None:
        suite = Suite("redteam", "", (), release.prompt.name, release.model.ref, (), GateRules("none"))
        self.release, self.spent = release, Spent()
        self._answers = Answers(evaluations, suite, release.model, self.spent, progress)
        self._template = replace(release.prompt.template, parameters=release.parameters)

    async def aclose(self) -> None:
        await self._answers.aclose()

    async def outputs(
        self, rows: Mapping[str, EvalRow], guarded: Release | None, what: str, *, secret: bool = False
    ) -> dict[str, Output]:
        """The answers by the row's id, as they go out to a client. guarded: the release with the guards to apply.
        secret: rows put one into the system turn, as one more paragraph. what: shown with the progress. Raises
        EngineError."""
        template, sent = self._template, rows
        if secret:
            instruction = "\n\n".join(filter(None, [instruction_of(template), f"{{{{ {_SECRET} }}}}"]))
            template = assembled(template, instruction, examples_of(template))
        if guarded is not None:
            template = replace(template, parameters=guards_for(guarded).bound(template.parameters))
            sent = {row_id: row for row_id, each in rows.items() if (row := _admitted(guarded, each)) is not None}
        outputs = dict.fromkeys(rows, BLOCKED)
        if sent:
            [report] = await self._answers.reports([template], list(sent.values()), [], what)
            for result in report.results:
                outputs[result.row.id] = result.output if guarded is None else _screened(guarded, result.output)
        return outputs

    async def attack(self, attacks: Sequence[Attack], guards: Mapping[str, Any]) -> list[KindResult]:
        """What became of each kind of attack, without guards and with these, where there are any."""
        guarded = replace(self.release, guards=guards) if guards else None
        results = []
        for kind in dict.fromkeys(attack.kind for attack in attacks):
            some = [attack for attack in attacks if attack.kind == kind]
            rows = {attack.id: self.row_of(attack) for attack in some}
            secret = any(attack.secret for attack in some)
            bare = await self.outputs(rows, None, kind, secret=secret)
            served = None
            if guarded is not None:
                served = self._rate(some, await self.outputs(rows, guarded, f"{kind}, guarded", secret=secret))
            examples = [
                {"id": attack.id, "attack": attack.messages[-1]["content"], "answer": bare[attack.id].text}
                for attack in some
                if self._outcome(attack, bare[attack.id]) == "succeeded"
            ]
            results.append(KindResult(kind, self._rate(some, bare), served, examples))
        return results

    async def normal(self, rows: Iterable[EvalRow], guards: Mapping[str, Any]) -> Blocked:
        """How many normal rows the guards refuse, or cut the answer of."""
        asked = {}
        for row in rows:
            asked[row.id] = row
            if not row.messages:  # its question fills the input variable, as a client sends it
                inputs = dict(row.inputs)
                question = inputs.pop(self._template.input_variable)
                inputs["messages"] = [{"role": "user", "content": question}]
                asked[row.id] = replace(row, inputs=inputs)
        outputs = await self.outputs(asked, replace(self.release, guards=guards), "normal rows, guarded")
        blocked = [row_id for row_id, output in outputs.items() if output.finish_reason == BLOCKED.finish_reason]
        return Blocked(len(blocked), len(outputs), tuple(blocked))

    def row_of(self, attack: Attack) -> EvalRow:
        """The attack as a client sends it; a retrieved text fills the prompt's other variables, or the question."""
        others = sorted(self._template.variables - {self._template.input_variable})
        messages = list(attack.messages)
        if attack.context and not others:
            text = f"Context: {attack.context}\n\nQuestion: {messages[-1]['content']}"
            messages[-1] = Message(role="user", content=text)
        inputs: dict[str, Any] = dict.fromkeys(others, attack.context or _NO_CONTEXT)
        inputs |= {_SECRET: attack.secret} if attack.secret else {}
        return EvalRow(attack.id, {**inputs, "messages": [dict(message) for message in messages]})

    def _rate(self, attacks: Sequence[Attack], outputs: Mapping[str, Output]) -> Rate:
        outcomes = Counter(self._outcome(attack, outputs[attack.id]) for attack in attacks)
        return Rate(outcomes["succeeded"], len(attacks), outcomes["failed"])

    def _outcome(self, attack: Attack, output: Output) -> str:
        if output.error is not None:
            return "failed"
        return "succeeded" if attack.succeeded(output, self._template.parameters.response_format) else "resisted"


def _admitted(release: Release, row: EvalRow) -> EvalRow | None:
    """The row as the release's guards send it on to the engine; None where they refuse it."""
    variables = {name: text for name, text in row.variables.items() if name != _SECRET}
    request = {"messages": [dict(message) for message in row.messages], "prompt_variables": variables}
    try:
        passed = guards_for(release).admit(request)
    except ApiError as error:
        if error.status != 400:
            raise UsageError(f"guards: {error.message}") from error
        return None
    return replace(row, inputs={**row.inputs, **passed["prompt_variables"], "messages": passed["messages"]})


def _screened(release: Release, output: Output) -> Output:
    """The answer as the release's guards let it out."""
    guards = guards_for(release)
    if not guards.screening:
        return output
    chunk = guards.screen(Chunk(output.text, output.finish_reason or "stop"))
    return replace(output, text=chunk.text if chunk else "", finish_reason=chunk.finish_reason if chunk else None)
