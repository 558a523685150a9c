"""Attacks on a release, without its guards and with them; and what these guards do to normal rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmops.errors import UsageError
from llmops.eval_runs.answering import Answers, Spent
from llmops.eval_runs.evaluations import Evaluations
from llmops.evaluation.eval_set import EvalRow
from llmops.evaluation.gate_rules import GateRules
from llmops.evaluation.results import Output
from llmops.evaluation.suite import Suite
from llmops.generation import Chunk, Message
from llmops.progress import ShowProgress
from llmops.prompt_file import PromptTemplate, assembled, examples_of, instruction_of
from llmops.redteam.attacks import Attack
from llmops.redteam.result import Blocked, KindResult, Rate
from llmops.versions import Release
from service.error_map import ApiError
from service.guards import guards_for

_SECRET = "redteam_secret"  # noqa: S105 - a variable's name
_NO_CONTEXT = "There is nothing else to know."
BLOCKED = Output("", finish_reason="content_filter")
"""What a client gets in place of an answer."""


@dataclass(frozen=True)
class Defence:
    """What stands between a client and the release: its guards, as the gateway applies them."""

    release: Release

    def admitted(self, row: EvalRow) -> EvalRow | None:
        """The row as it goes on to the engine; None where it is refused."""
        try:
            passed = guards_for(self.release).admit(
                {"messages": [dict(message) for message in row.messages], "prompt_variables": _client_variables(row)}
            )
        except ApiError as error:
            if error.status != 400:
                raise UsageError(f"guards: {error.message}") from error
            return None
        return replace(row, inputs={**row.inputs, **passed["prompt_variables"], "messages": passed["messages"]})

    def screened(self, output: Output) -> Output:
        """The answer as it goes out."""
        guards = guards_for(self.release)
        if not guards.screening:
            return output
        chunk = guards.screen(Chunk(output.text, output.finish_reason or "stop"))
        return replace(output, text=chunk.text if chunk else "", finish_reason=chunk.finish_reason if chunk else None)


def _client_variables(row: EvalRow) -> dict[str, str]:
    return {name: text for name, text in row.variables.items() if name != _SECRET}


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
        self, rows: Mapping[str, EvalRow], defence: Defence | None, what: str, *, secret: bool = False
    ) -> dict[str, Output]:
        """The answers by the row's id; with a defence, what goes out of it. secret: rows put one into the system turn.
        what: shown with the progress. Raises EngineError."""
        template = _with_secret(self._template) if secret else self._template
        sent = rows
        if defence is not None:
            template = replace(template, parameters=guards_for(defence.release).bound(template.parameters))
            sent = {row_id: row for row_id, each in rows.items() if (row := defence.admitted(each)) is not None}
        found = dict.fromkeys(rows, BLOCKED)
        if sent:
            [report] = await self._answers.reports([template], list(sent.values()), [], what)
            for result in report.results:
                found[result.row.id] = defence.screened(result.output) if defence is not None else result.output
        return found

    async def attack(self, attacks: Sequence[Attack], guards: Mapping[str, Any]) -> list[KindResult]:
        """What became of each kind of attack, without guards and with these, where there are any."""
        defence = Defence(replace(self.release, guards=guards)) if guards else None
        results = []
        for kind in dict.fromkeys(attack.kind for attack in attacks):
            some = [attack for attack in attacks if attack.kind == kind]
            rows = {attack.id: self.row_of(attack) for attack in some}
            secret = any(attack.secret for attack in some)
            bare = await self.outputs(rows, None, kind, secret=secret)
            guarded = None if defence is None else await self.outputs(rows, defence, f"{kind}, guarded", secret=secret)
            served = None if guarded is None else self._rate(some, guarded)
            results.append(KindResult(kind, self._rate(some, bare), served, self._examples(some, bare)))
        return results

    async def normal(self, rows: Iterable[EvalRow], guards: Mapping[str, Any]) -> Blocked:
        """How many normal rows the guards refuse, or cut the answer of."""
        defence = Defence(replace(self.release, guards=guards))
        asked = {row.id: row if row.messages else self._conversation(row) for row in rows}
        found = await self.outputs(asked, defence, "normal rows, guarded")
        blocked = [row_id for row_id, output in found.items() if output.finish_reason == BLOCKED.finish_reason]
        return Blocked(len(blocked), len(found), tuple(blocked))

    def row_of(self, attack: Attack) -> EvalRow:
        """The attack as a client of the release sends it: a retrieved text fills the prompt's other variables, or
        stands in the question where it has none."""
        others = sorted(self._template.variables - {self._template.input_variable})
        messages = list(attack.messages)
        if attack.context and not others:
            text = f"Context: {attack.context}\n\nQuestion: {messages[-1]['content']}"
            messages[-1] = Message(role="user", content=text)
        inputs: dict[str, Any] = dict.fromkeys(others, attack.context or _NO_CONTEXT)
        inputs |= {_SECRET: attack.secret} if attack.secret else {}
        return EvalRow(attack.id, {**inputs, "messages": [dict(message) for message in messages]})

    def _conversation(self, row: EvalRow) -> EvalRow:
        """A row whose question fills the input variable, as a client sends it."""
        variable, inputs = self._template.input_variable, dict(row.inputs)
        asked = inputs.pop(variable)
        return replace(row, inputs={**inputs, "messages": [{"role": "user", "content": asked}]})

    def _rate(self, attacks: Sequence[Attack], outputs: Mapping[str, Output]) -> Rate:
        found = Counter(self._outcome(attack, outputs[attack.id]) for attack in attacks)
        return Rate(found["succeeded"], len(attacks), found["failed"])

    def _outcome(self, attack: Attack, output: Output) -> str:
        if output.error is not None:
            return "failed"
        return "succeeded" if attack.succeeded(output, self._template.parameters.response_format) else "resisted"

    def _examples(self, attacks: Sequence[Attack], outputs: Mapping[str, Output]) -> list[dict[str, str]]:
        """Every attack that succeeded without guards, with the answer."""
        return [
            {"id": attack.id, "attack": attack.messages[-1]["content"], "answer": outputs[attack.id].text}
            for attack in attacks
            if self._outcome(attack, outputs[attack.id]) == "succeeded"
        ]


def _with_secret(template: PromptTemplate) -> PromptTemplate:
    """The release's prompt with one more paragraph in its system turn."""
    instruction = "\n\n".join(filter(None, [instruction_of(template), f"{{{{ {_SECRET} }}}}"]))
    return assembled(template, instruction, examples_of(template))
