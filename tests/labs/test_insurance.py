"""The insurance lab: what is simulated, how three exports become one table, its models, and the simulated years."""

import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner

from labs.data import LabData
from labs.evaluation import actual_over_expected
from labs.insurance import models, years
from labs.insurance.analysis import KEPT, WITHOUT, coefficients, deciles, levels, pooled
from labs.insurance.data import join, load_insurance
from labs.insurance.lab import InsuranceLab
from labs.insurance.simulation import TRUE_COEFFICIENTS, Tables, rates, simulate, write
from labs.insurance.splits import SCHEMA, between, first_split, folds
from llmops.errors import BadFile, CannotRun, UsageError
from llmops.settings import Settings
from tests.labs.conftest import served

POLICIES = 6_000
SMALL = {"boosting": {"max_iter": 20}, "boosting+accidents": {"max_iter": 20}}


@pytest.fixture(scope="module")
def tables() -> Tables:
    return simulate(seed=1, policies=POLICIES)


@pytest.fixture(scope="module")
def source(tables: Tables, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("insurance") / "insurance.zip"
    write(tables, path, seed=1)
    return path


@pytest.fixture(scope="module")
def data(source: Path, tmp_path_factory: pytest.TempPathFactory) -> LabData:
    return load_insurance(Settings(home=tmp_path_factory.mktemp("home")), f"file:{source}")


@pytest.fixture(scope="module")
def glm(data: LabData) -> models.Trained:
    return models.train_on(first_split(data.table, "made up"), models.GLM_ACCIDENTS, {})


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tables, source, tmp_path):
    write(simulate(seed=1, policies=POLICIES), tmp_path / "again.zip", seed=1)
    assert (tmp_path / "again.zip").read_bytes() == source.read_bytes()
    assert not simulate(seed=2, policies=100).accidents.equals(tables.accidents)


def test_claims_come_as_often_as_the_published_coefficients_say_and_more_often_after_the_rise():
    tables = simulate(seed=3, policies=30_000)
    policies, claims = tables.policies, tables.claims
    days = (policies["end"].clip(upper="2022-10-01") - policies["start"].clip(lower="2018-07-01")).dt.days.clip(lower=0)
    expected = float((rates(policies) * days / 365.25).sum())
    before = int((claims["happened"] < "2022-10-01").sum())
    assert before / expected == pytest.approx(1, abs=0.12)  # 120 areas share a risk: no closer than some 5 %
    base = {"driver_age": 40, "vehicle_group": 0, "ncd_years": 0, "conviction_points": 0, "band": "A"}
    rows = pd.DataFrame([base, {**base, "band": "F"}, {**base, "driver_age": 27}, {**base, "driver_age": 70}])
    logs = np.log(rates(rows))
    true = TRUE_COEFFICIENTS
    assert logs - logs[0] == pytest.approx([0, true["band_F"], 0.6 * true["young"], true["old"]])


def test_accidents_tell_of_claims_by_the_latent_risk_alone(tables):
    """Without an effect of the risk the same accidents are drawn, and say nothing of the claims."""
    without = simulate(seed=1, policies=POLICIES, effect=0.0)
    assert without.accidents.equals(tables.accidents)
    assert without.policies.equals(tables.policies)
    assert not without.claims.equals(tables.claims)


def test_every_fault_of_the_exports_is_found_and_counted(tables, data):
    found = {(each.kind, each.column): each.count for each in data.quality.findings}
    assert found["repaired", "band"] == 300  # 240, of which a quarter stand there twice
    assert found["dropped", "policies"] == 60
    assert found["dropped", "policy"] == len(tables.claims) // 400
    assert found["dropped", "claims"] > 0
    assert found["missing", "accidents"] > 0
    inside = int(data.table["claims"].sum())
    assert 0 < inside < len(tables.claims)
    assert data.table["policy"].isin(tables.policies["policy"]).all()


def test_a_row_knows_the_accidents_that_were_published_when_its_quarter_began(tables):
    later = tables.accidents.copy()
    later.loc[later["month"] > "2020-11-01", "accidents"] = 10**6
    for accidents, changes in ((later, False), (tables.accidents.assign(accidents=0), True)):
        table, _ = join(tables.policies, tables.claims, accidents)
        real, _ = join(tables.policies, tables.claims, tables.accidents)
        quarter = table["quarter"] == "2021Q1"
        same = np.allclose(table.loc[quarter, "accident_rate"], real.loc[quarter, "accident_rate"])
        assert same is not changes
    assert (table["accident_rate"] > 0).all(), "a rate of 0 has no logarithm"


def test_claims_count_in_the_quarter_in_which_they_happened(tables):
    table, _ = join(tables.policies, tables.claims, tables.accidents)
    again, _ = join(tables.policies, tables.claims.assign(reported=tables.claims["happened"]), tables.accidents)
    assert table["claims"].tolist() == again["claims"].tolist()
    policy = tables.policies.set_index("policy").loc[table["policy"]]
    begins = pd.PeriodIndex(table["quarter"], freq="Q").start_time
    assert (policy["start"].to_numpy() <= begins).all()


@pytest.mark.parametrize(
    ("name", "old", "new", "told"),
    [
        ("policies", "driver_age", "age", "has no column 'driver_age'"),
        ("claims", "2021-", "20-21-", "claims.csv:[0-9]+: reported: must be a month such as 2021-01"),
        ("accidents", "A01,", "A01,x", "a month such as 2021-01"),
    ],
)
def test_a_broken_export_is_named_with_file_and_field(source, tmp_path, name, old, new, told):
    broken = tmp_path / "broken.zip"
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(broken, "w") as written:
        for each in archive.namelist():
            text = archive.read(each).decode()
            written.writestr(each, text.replace(old, new, 1) if each == f"{name}.csv" else text)
    with pytest.raises(BadFile, match=told) as raised:
        load_insurance(Settings(home=tmp_path), f"file:{broken}")
    assert f"{name}.csv" in str(raised.value)


def test_what_is_no_zip_of_the_three_exports_is_refused(tmp_path):
    (tmp_path / "none.zip").write_text("nothing")
    with pytest.raises(BadFile, match=r"no zip of policies\.csv"):
        load_insurance(Settings(home=tmp_path), f"file:{tmp_path / 'none.zip'}")
    with zipfile.ZipFile(tmp_path / "empty.zip", "w"):
        pass
    with pytest.raises(BadFile, match=r"policies\.csv"):
        load_insurance(Settings(home=tmp_path), f"file:{tmp_path / 'empty.zip'}")
    with pytest.raises(CannotRun, match="no such file"):
        load_insurance(Settings(home=tmp_path), "file:/nowhere.zip")


def test_the_splits_are_by_time_and_each_fold_judges_a_later_quarter(data):
    split = first_split(data.table, "made up")
    assert max(split.training.clusters) < "2021Q1" <= min(split.holdout.clusters)
    assert max(split.holdout.clusters) < "2021Q3"
    for fit_on, judge_on in folds(split.training):
        assert max(split.training.clusters[i].split()[0] for i in fit_on) < split.training.clusters[judge_on[0]]
    with pytest.raises(UsageError, match="no policy in force"):
        between(data.table, "2030Q1", "2030Q1", "made up")


@pytest.mark.parametrize("candidate", models.CANDIDATES, ids=lambda candidate: candidate.name)
def test_every_candidate_is_written_without_pickle_and_predicts_the_same_from_rows(data, candidate, tmp_path):
    model = models.train_on(first_split(data.table, "made up"), candidate, SMALL.get(candidate.name, {}))
    said = served(model, SCHEMA, tmp_path).predict(model.holdout.rows()[:20])
    assert said.values == pytest.approx(model.predictions[:20].tolist())
    assert (model.predictions > 0).all()
    reads_accidents = "accidents" in candidate.name
    other = model.holdout.features.assign(accident_rate=model.holdout.features["accident_rate"] * 2)
    assert np.allclose(model.estimator.predict(other), model.predictions) is not reads_accidents


def test_a_model_is_brought_to_the_level_of_later_rows_and_keeps_its_order(data, glm):
    rows = between(data.table, "2023Q1", "2023Q2", "made up")
    for candidate, exact in (
        (models.GLM_ACCIDENTS, 1e-9),
        (models.BOOSTING, 1e-6),
    ):  # boosting adds up float32 gradients
        model = models.train_on(first_split(data.table, "made up"), candidate, SMALL.get(candidate.name, {}))
        before = model.predictions.copy()
        moved = models.rebased(model, rows)
        assert moved.estimator.predict(rows.features).sum() == pytest.approx(rows.truth.sum())
        assert np.ptp(moved.predictions / before) == pytest.approx(0, abs=exact)
        assert (model.predictions == before).all()


def test_a_challenger_waits_for_a_quarter_beside_the_one_that_judges_it(data, source, tmp_path, glm):
    lab = InsuranceLab(Settings(home=tmp_path), source=f"file:{source}", cycle="test")
    champion = {"candidate": "glm+accidents", "parameters": {}}
    assert lab.challenger("2023Q1", "2023Q1", champion) is None
    model = lab.challenger("2023Q2", "2023Q1", champion)
    assert model is not None
    assert {cluster.split()[0] for cluster in model.holdout.clusters} == {"2023Q1"}
    assert max(model.training.clusters).startswith("2022Q4")
    assert lab.error(model.holdout, model.predictions) == pytest.approx(lab.error_of(model.metrics))


def test_intervals_know_that_policies_of_an_area_share_its_risk(data):
    found = coefficients(first_split(data.table, "made up").training, with_accidents=True)
    assert list(found) == [*TRUE_COEFFICIENTS, "log_accident_rate"]
    for each in found.values():
        assert each.ci95[0] < each.value < each.ci95[1]
        assert sum(each.ci95) == pytest.approx(2 * each.value)

    def width(interval):
        return interval[1] - interval[0]

    wider = {name: width(each.ci95) / width(each.plain_ci95) for name, each in found.items()}
    assert np.mean([wider[f"band_{band}"] for band in "BCDEF"]) > np.mean([wider["ncd_years"], wider["young"]])


def test_levels_are_claims_over_expected_claims_and_none_at_all_has_an_upper_end(glm):
    of_row = deciles(glm.predictions)
    assert set(of_row) == set(range(1, 11))
    assert np.ptp(np.bincount(of_row)[1:]) <= 1
    found = levels(glm.holdout, glm.predictions, of_row.tolist())
    assert sum(count for count, _ in found.values()) == len(glm.holdout)
    nothing = actual_over_expected(np.zeros(4), np.ones(4), ["a", "a", "b", "b"])
    assert (nothing.value, nothing.ci95) == (0.0, (0.0, pytest.approx(3.689 / 4, abs=1e-3)))
    draws = np.random.default_rng(0).poisson(0.5, size=(300, 40, 5)).astype(float)
    clusters = np.repeat(np.arange(40), 5).astype(str)
    intervals = [actual_over_expected(draw.ravel(), np.full(200, 0.5), clusters).ci95 or (0, 0) for draw in draws]
    assert np.mean([low <= 1 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.04)


def test_a_years_expected_claims_follow_from_the_tables(tables):
    table, _ = join(tables.policies, tables.claims, tables.accidents)
    expected = years.expected_claims(tables, table, 0.4)
    assert table["claims"].sum() / expected.sum() == pytest.approx(1, abs=0.15)
    flat = years.expected_claims(tables, table[table["quarter"] == "2020Q1"], 0.0)
    policy = tables.policies.set_index("policy", drop=False).loc[table.loc[table["quarter"] == "2020Q1", "policy"]]
    assert flat == pytest.approx(rates(policy) * 91 / 365.25)


def year(seed, effect, *, holds=True, verdict="pass", gain=1.0):
    intervals = {
        name: {"value": true, "ci95": (true - 1, true + 1) if holds else (true + 1, true + 2), "plain_ci95": (0, 0)}
        for name, true in TRUE_COEFFICIENTS.items()
    }
    told = {"seed": seed, "effect": effect, "gates": {"a gate": {"verdict": verdict, "true_gain": gain}}}
    return {**told, "coefficients": {"without accidents": intervals, "with accidents": intervals}} if effect else told


def test_years_that_are_done_are_not_drawn_again_and_are_counted(tmp_path, monkeypatch):
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    done = [year(10_000, 0.4), year(10_001, 0.4, holds=False), year(10_000, 0.0, verdict="fail", gain=-1.0)]
    done.append(year(10_001, 0.0, gain=-1.0))
    kept = tmp_path / "home" / "labs" / "insurance-years.jsonl"
    kept.parent.mkdir(parents=True)
    kept.write_text("".join(json.dumps(each) + "\n" for each in done) + '{"seed": 10002, "eff')
    told = CliRunner().invoke(
        years.main, ["--years", "2", "--to", str(tmp_path / "k.json"), "--figure", str(tmp_path / "y.png")]
    )
    assert told.exit_code == 0, told.output
    assert kept.read_text().count("\n") == 4, "the line that was cut off is gone"
    found = json.loads((tmp_path / "k.json").read_text())
    assert found["years"] == 2
    coverage = found["coverage"]["without accidents"]
    assert all(each == {"ci95": 1, "plain_ci95": 0} for each in coverage.values())
    assert pooled(coverage, 2) == 0.5
    assert found["gates"]["a gate"] == {"years": 2, "passed": 2, "better": 2, "mistaken": 0}
    assert found["gates"]["a gate, which are worth nothing"] == {"years": 2, "passed": 1, "better": 0, "mistaken": 1}
    assert (tmp_path / "y.png").stat().st_size > 1000


def test_the_kept_years_hold_the_truth_as_often_as_95_percent_intervals_should():
    kept = json.loads(KEPT.read_text("utf-8"))
    low, high = kept["band"]
    assert kept["years"] == 100
    assert 0.93 <= pooled(kept["coverage"][WITHOUT], 100) <= 0.97
    for coverage in kept["coverage"].values():
        assert all(low <= each["ci95"] <= high for each in coverage.values())
    bands = {name: each for name, each in kept["coverage"][WITHOUT].items() if name.startswith("band")}
    assert pooled(bands, 100, "plain_ci95") < 0.93 < pooled(bands, 100), "areas share a risk"
    gate = kept["gates"]["against the formula"]
    assert (gate["better"], gate["mistaken"]) == (100, 0)


@pytest.mark.slow
def test_a_simulated_year_is_the_same_each_time_and_the_gate_knows_what_accidents_are_worth():
    found = years.one_year(10_000)
    assert found == years.one_year(10_000)
    assert found["gates"]["against the formula"]["true_gain"] > 0
    assert "intercept" not in found["coefficients"]["with accidents"]
    worthless = years.one_year(10_000, 0.0)
    assert worthless["gates"]["against the same without accidents"]["verdict"] != "pass"
