"""One optimisation from its rows to the next prompt file: real MLflow store, real generation cache, a made-up model."""

import json
from pathlib import Path

import pytest

import llmops
from llmops.engines.fake import FakeEngine
from llmops.errors import CannotRun, UsageError
from llmops.eval_runs import matrix
from llmops.optimizing.split import split_rows
from llmops.prompt_file import load_prompt_folder
from llmops.recording.optimizations import OptimizationRecord, held_out_before
from llmops.registry import Registry
from llmops.registry.store import Store
from tests.optimizing.conftest import code_of, right_where, row, rows_of, write_codes

QUIET = {"progress": False}


def optimize(settings, **options):
    return llmops.optimize("codes", settings=settings, **{"budget": 400, **QUIET, **options})


def files(settings):
    return [path.name for path, _ in load_prompt_folder(settings.prompts / "codes")]


def runs_of(settings):
    client = Store(settings).mlflow_client
    experiment = client.get_experiment_by_name("optimizations")
    return [] if experiment is None else client.search_runs([experiment.experiment_id])


def test_a_better_prompt_is_found_judged_on_held_out_rows_written_and_registered_nowhere(codes):
    found = optimize(codes)
    assert found.passed, found.held_out
    assert found.rows == {"demonstrations": 20, "selection": 35, "held_out": 45}
    assert found.selection["n"] == 35
    assert found.held_out["n"] == 45
    assert found.optimism["difference"] == pytest.approx(found.selection["difference"] - found.held_out["difference"])
    low, high = found.optimism["ci95"]
    assert low < found.optimism["difference"] < high

    # The file: the next version, which shows rows of demonstration alone, and says where it comes from.
    assert files(codes) == ["v1.md", "v2.md"]
    assert found.file == str(codes.prompts / "codes" / "v2.md")
    [_, (_, written)] = load_prompt_folder(codes.prompts / "codes")
    assert f"(run {found.run_id})" in written.description
    shown = [turn["content"] for turn in written.turns if turn["role"] == "assistant"]
    assert len(shown) == len(found.best["demonstrations"]) > 2
    record = json.loads(artifact(codes, found.run_id, "split.json"))
    assert set(found.best["demonstrations"]) <= set(record["demonstrations"])
    assert [version.version for version in Registry(codes).prompts.versions("codes")] == [1]

    # The record: every candidate with its mean at each rung, and what it cost.
    [run] = runs_of(codes)
    assert (run.info.run_id, run.info.status, run.data.params["seed"]) == (found.run_id, "FINISHED", "0")
    assert run.data.metrics["held_out/difference"] == found.held_out["difference"]
    table = json.loads(artifact(codes, found.run_id, "candidates.json"))
    assert len(table["data"]) == len(found.candidates) == run.data.metrics["tried"]
    assert {"rank", "prompt", f"mean on {found.rows['selection']} rows"} <= set(table["columns"])
    assert 0 < found.spent["answers"] <= 400
    assert found.spent["tokens_in"] > 0

    text = "\n".join(block if isinstance(block, str) else block.title for block in found.blocks())
    assert "on the 35 rows it was chosen by" in text
    assert "on 45 rows that nobody chose by" in text
    assert "points, 95 %" in text
    assert {"best", "selection", "held_out", "tried"} <= found.to_dict().keys()


def artifact(settings, run_id, name):
    client = Store(settings).mlflow_client
    return Path(client.download_artifacts(run_id, name)).read_text()


def test_the_same_optimisation_again_reads_its_record_and_another_one_never_the_same_held_out_rows(codes, monkeypatch):
    first = optimize(codes)
    monkeypatch.setattr(matrix, "open_engine", lambda *_: pytest.fail("an engine was loaded"))
    assert optimize(codes).to_dict() == first.to_dict()
    assert files(codes) == ["v1.md", "v2.md"]

    monkeypatch.setattr(matrix, "open_engine", lambda *_: FakeEngine(code_of))
    second = optimize(codes, seed=1)
    keys = [json.loads(artifact(codes, each.run_id, "split.json"))["held_out_keys"] for each in (first, second)]
    assert not set(keys[0]) & set(keys[1])
    with pytest.raises(CannotRun, match=r"held-out rows are read once, and 90 of 100 rows .* Add 10 new rows"):
        optimize(codes, seed=2)
    with pytest.raises(CannotRun, match="held-out rows are read once"):  # nor does another request help
        optimize(codes, seed=0, budget=300, most_examples=2)
    assert len(runs_of(codes)) == 2

    write_codes(codes.eval_sets.parent, range(130))
    third = optimize(codes, seed=2)
    fresh = json.loads(artifact(codes, third.run_id, "split.json"))["held_out_keys"]
    assert not set(fresh) & {*keys[0], *keys[1]}


def test_the_gate_of_an_optimised_prompt_reads_held_out_rows_alone_and_says_what_the_optimisation_did(codes):
    found = optimize(codes)
    llmops.register_prompts(settings=codes)
    before, after = llmops.evaluate("codes", settings=codes, **QUIET)
    gated = llmops.gate(after, against=before, suite="codes", settings=codes)
    assert gated.comparison.rows == 45 < before.done.run.rows
    assert gated.comparison.metrics["correct"].to_json()["ci95"] == found.held_out["ci95"]
    assert gated.verdict.verdict == found.held_out["verdict"] == "pass"
    assert f"55 of 100 rows are left out: codes@2 was chosen by them (run {found.run_id})" in gated.verdict.reasons
    assert llmops.gate(before, against=after, suite="codes", settings=codes).comparison.rows == 100


def test_where_no_candidate_is_better_on_selection_held_out_rows_stay_unread(codes, monkeypatch):
    monkeypatch.setattr(matrix, "open_engine", lambda *_: FakeEngine(lambda _: "no idea"))
    found = optimize(codes)
    assert (found.best, found.held_out, found.file, found.passed) == (None, None, None, False)
    assert files(codes) == ["v1.md"]
    assert any("held-out rows were not read" in block for block in found.blocks() if isinstance(block, str))
    again = optimize(codes, seed=1)
    assert again.rows["held_out"] == 45


def test_a_prompt_that_is_worse_on_held_out_rows_is_not_written(codes, monkeypatch):
    split = {}

    def fooled(request):
        """Right on what selects, and only with examples; else right without."""
        examples = any(message["role"] == "assistant" for message in request.messages)
        return examples == (request.messages[-1]["content"] in split["selection"])

    ids = split_rows(rows_of(range(100)), seed=0).selection
    split["selection"] = {each.inputs["question"] for each in rows_of(range(100)) if each.id in ids}
    monkeypatch.setattr(matrix, "open_engine", lambda *_: FakeEngine(right_where(fooled)))
    found = optimize(codes)
    assert found.selection["difference"] == 1
    assert (found.held_out["difference"], found.held_out["verdict"]) == (-1, "fail")
    assert found.optimism["difference"] == 2
    assert (found.file, files(codes)) == (None, ["v1.md"])


def test_demonstrations_come_from_a_pool_but_for_rows_that_belong_to_the_suites(codes):
    copied = row(3) | {"id": "copy", "inputs": {"question": f"{row(3)['inputs']['question']} ?"}}
    leaking = row(301) | {"expectations": row(5)["expectations"]}
    unusable = [row(302) | {"expectations": {}}, row(303) | {"inputs": {"question": "What is {{ this }}?"}}]
    found = optimize(codes, pool=[copied, leaking, *unusable, *map(row, range(200, 220))])
    assert found.rows == {"demonstrations": 0, "selection": 50, "held_out": 50}
    assert {each.partition("-")[0] for each in found.best["demonstrations"]} == {"row"}
    assert all(200 <= int(each.partition("-")[2]) < 220 for each in found.best["demonstrations"])
    assert found.rejected == {
        "demonstration is a near-duplicate of a row of the suite, or shares its cluster": 1,
        "demonstration holds pieces of selection or held-out rows": 1,
        "demonstration has no expected answer to show": 1,
        "demonstration does not fit the prompt": 1,
    }
    assert any("1 rejected: demonstration holds pieces" in note for note in found.notes)


def test_instructions_from_files_race_and_those_that_hold_pieces_of_rows_are_rejected(codes, monkeypatch, tmp_path):
    by_instruction = right_where(lambda request: "backwards" in request.messages[0]["content"])
    monkeypatch.setattr(matrix, "open_engine", lambda *_: FakeEngine(by_instruction))
    texts = {"good": "Say two words backwards.", "bad": "Say nothing.", "leak": row(1)["inputs"]["question"]}
    leaks = [f"The answer is {row(number)['expectations']['expected_response']}." for number in range(100)]
    texts |= {f"leak-{number}": text for number, text in enumerate(leaks)}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
    found = optimize(
        codes, optimizer="instructions", budget=1000, instructions=[tmp_path / f"{name}.txt" for name in texts]
    )
    assert found.passed
    assert (found.best["instruction"], found.best["demonstrations"]) == ("good", [])
    rejected = found.rejected["instruction holds pieces of selection or held-out rows"]
    assert rejected >= 80  # rows of demonstration may be told
    assert len(found.candidates) == len(texts) - rejected


def test_a_request_that_cannot_be_met_says_why(codes):
    for options, problem in (
        ({"optimizer": "instructions"}, "needs a model that writes instructions"),
        ({"optimizer": "gepa"}, "--proposer NAME@V"),
        ({"budget": 50}, "need 70"),
    ):
        with pytest.raises(UsageError, match=problem):
            optimize(codes, **options)


def test_the_command_prints_what_the_function_returns_and_passes_only_with_the_gate(codes, llmops, monkeypatch):
    for name, value in (("HOME", codes.home), ("PROMPTS", codes.prompts), ("EVAL_SETS", codes.eval_sets)):
        monkeypatch.setenv(f"LLMOPS_{name}", str(value))
    done = llmops("optimize", "codes", "--budget", "400", "--json")
    assert (done.code, done.json["held_out"]["verdict"], done.json["seed"]) == (0, "pass", 0)
    assert done.json["tried"] == len(done.json["candidates"])
    again = llmops("optimize", "codes", "--budget", "400")
    assert "held out: +" in again.out
    assert "nothing is registered" in again.err
    llmops("optimize", "nothing").refused(3, "no suite 'nothing'")


def test_of_optimisations_that_want_the_same_held_out_rows_one_reads_them_and_an_unfinished_one_is_not_begun_twice(
    codes,
):
    store = Store(codes)
    one, other = (OptimizationRecord.begun(store, identity, "codes", identity, {}) for identity in ("one", "other"))
    for record, keys in ((one, ["a", "b"]), (other, ["b", "c"])):
        record.keep("split.json", {"held_out_keys": keys, "used_keys": []})
    one.claim(["a", "b"], "hash of a prompt")
    one.claim(["a", "b"], "hash of a prompt")  # as after a kill
    with pytest.raises(CannotRun, match=f"run {one.run_id} has read some of these: add new rows"):
        other.claim(["b", "c"], "hash of another")
    assert held_out_before(store, "codes") == {"a": one.run_id, "b": one.run_id}
    assert held_out_before(store, "another suite") == {}
    assert OptimizationRecord.found(store, "one", "codes") == one
    assert OptimizationRecord.found(store, "other", "codes") is None  # it begins anew, with another split
    store.client.set_tag(one.run_id, "llmops.writer", "elsewhere 1 0.00")
    with pytest.raises(CannotRun, match="under way"):
        OptimizationRecord.found(store, "one", "codes")
