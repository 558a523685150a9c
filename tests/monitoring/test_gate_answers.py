from __future__ import annotations

from llmops.eval_runs.evaluations import RunOptions
from monitoring.gate_answers import gate_answers
from tests.registered_home import Workshop


def test_the_answers_that_the_gate_saw_are_records_of_the_release(workshop: Workshop) -> None:
    evaluations, registry = workshop.evaluations, workshop.registry
    prompt, made = registry.prompts.get("qa"), registry.models.get("tiny@1")
    release, _ = registry.release_versions.create("answering", prompt, made, prompt.template.parameters)
    assert gate_answers(registry, release) == [], "no gate is on record"
    suite = evaluations.suite("sums")
    evaluations.run(suite, evaluations.cells(suite, releases=[release.ref]), RunOptions(), lambda *_: None)
    evaluations.gate(release.ref, None, "sums")
    answers = gate_answers(registry, release)
    assert len(answers) == len(list(suite.rows))
    assert {answer.release for answer in answers} == {"answering@1"}
    assert all(answer.input.startswith("Is “") and answer.output and answer.status == 200 for answer in answers)
