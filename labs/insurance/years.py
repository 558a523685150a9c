"""Do the lab's intervals hold the truth, and is its gate right? Asked of 100 simulated years, since the truth is known:

    python -m labs.insurance.years --figure docs/labs/insurance_years.png

Each year is a company of its own, drawn as `simulation` says: regressions are fitted on its four quarters, and gates
judge them on the two that follow. It is drawn once more with a latent risk that has no effect on claims: then knowing
the accidents is worth nothing, and the gate should not pass.

Years that are done are kept in `labs/insurance-years.jsonl` of the home: started again, the command goes on. What they
come to is `years.json` beside this file, which the lab shows.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import numpy as np
import pandas as pd

from labs.data import Split
from labs.evaluation import judge
from labs.insurance.analysis import KEPT, WITH, WITHOUT, coefficients, holds
from labs.insurance.data import join
from labs.insurance.models import FORMULA, GLM, GLM_ACCIDENTS, RULES, SCORERS, train_on
from labs.insurance.simulation import EFFECT, TRUE_COEFFICIENTS, Tables, factors, rates, simulate
from labs.insurance.splits import between
from labs.recording import figure_of
from labs.training import Trained
from llmops.progress import progress_bar
from llmops.settings import Settings
from llmops.text_io import write_text

Json = dict[str, Any]
_FITTED, _JUDGED, _LAST = ("2020Q1", "2020Q4"), ("2021Q1", "2021Q2"), "2021-06"
_FIRST_SEED = 10_000


def one_year(seed: int, effect: float = EFFECT) -> Json:
    """coefficients: of the regressions without and with accidents, where the truth is known (the intercept is that of
    no accidents); of each the value and both intervals. gates: of each the verdict and the true gain, by how much the
    challenger's expected deviance is below the champion's."""
    tables = simulate(seed, effect=effect, last=_LAST)
    table, _ = join(tables.policies, tables.claims, tables.accidents)
    split = Split(between(table, *_FITTED, "simulated"), between(table, *_JUDGED, "simulated"))
    expected = expected_claims(tables, table[table["quarter"].between(*_JUDGED)], effect)
    formula, glm, informed = (train_on(split, each, {}) for each in (FORMULA, GLM, GLM_ACCIDENTS))
    against_formula = {"against the formula": _gate(informed, formula, expected)} if effect else {}
    year: Json = {"seed": seed, "effect": effect, "gates": against_formula}
    year["gates"]["against the same without accidents"] = _gate(informed, glm, expected)
    if effect:
        estimated = {name: coefficients(split.training, with_accidents=name == WITH) for name in (WITHOUT, WITH)}
        del estimated[WITH]["intercept"]
        year["coefficients"] = {
            name: {each: asdict(of[each]) for each in TRUE_COEFFICIENTS if each in of} for name, of in estimated.items()
        }
    return year


def expected_claims(tables: Tables, table: Any, effect: float) -> Any:
    """Of each row of the joined table, by the simulation's own law: a numpy array."""
    months = tables.latent.columns
    of_month = factors(tables.latent, effect) * (months.days_in_month / 365.25)
    of_quarter = of_month.T.groupby(months.to_period("Q").astype(str)).sum()
    rate = pd.Series(rates(tables.policies), index=tables.policies["policy"])
    quarter, area = (of_quarter.index.get_indexer(table["quarter"]), of_quarter.columns.get_indexer(table["area"]))
    return rate.loc[table["policy"]].to_numpy() * of_quarter.to_numpy()[quarter, area]


def _gate(challenger: Trained, champion: Trained, expected: Any) -> Json:
    judged = judge(
        (challenger.name, challenger.predictions),
        (champion.name, champion.predictions),
        champion.holdout,
        SCORERS,
        RULES,
    )
    new, old = challenger.predictions, champion.predictions
    gain = 2 * np.mean(old - new + expected * np.log(new / old))
    return {"verdict": judged.verdict.verdict, "true_gain": float(gain)}


def summary(years: Sequence[Json]) -> Json:
    """What simulated years come to, as `years.json` has it.

    coverage: by regression, and by coefficient in it: in how many years the interval held the truth, and in how many
    the one that takes all rows for independent did. band: within which all but one in a hundred counts of right
    intervals are (exact, binomial). gates: by gate, in how many years it passed; better, in how many the challenger
    was truly the better one; mistaken, in how many it passed one that was not.
    """
    from scipy.stats import binom

    drawn = [year for year in years if year["effect"]]
    counts: Json = {"years": len(drawn), "band": [int(end) for end in binom.interval(0.99, len(drawn), 0.95)]}
    counts["coverage"] = {
        regression: {
            name: {
                kind: sum(holds(year["coefficients"][regression][name][kind], true) for year in drawn)
                for kind in ("ci95", "plain_ci95")
            }
            for name, true in TRUE_COEFFICIENTS.items()
            if name in drawn[0]["coefficients"][regression]
        }
        for regression in (WITHOUT, WITH)
    }
    gates: dict[str, list[Json]] = {}
    for year in years:
        for name, gate in year["gates"].items():
            gates.setdefault(name if year["effect"] else f"{name}, which are worth nothing", []).append(gate)
    counts["gates"] = {
        name: {
            "years": len(each),
            "passed": sum(gate["verdict"] == "pass" for gate in each),
            "better": sum(gate["true_gain"] > 0 for gate in each),
            "mistaken": sum(gate["verdict"] == "pass" and gate["true_gain"] <= 0 for gate in each),
        }
        for name, each in gates.items()
    }
    return counts


def years_figure(years: Sequence[Json]) -> Any:
    """Every year's interval of each coefficient, as its distance from the truth; those that miss it stand out."""
    drawn = [year["coefficients"][WITHOUT] for year in years if year["effect"]]
    figure, axes = figure_of("", "found − true", "", size=(8.4, 3.8))
    axes.axhline(0, color="black", linewidth=0.8)
    step = len(drawn) * 1.25
    for place, (name, true) in enumerate(TRUE_COEFFICIENTS.items()):
        for number, year in enumerate(sorted(drawn, key=lambda year: year[name]["value"])):
            low, high = year[name]["ci95"]
            colour = "#b8cde2" if low <= true <= high else "#c62828"
            axes.plot([place * step + number] * 2, [low - true, high - true], color=colour, linewidth=0.6)
    middles = [place * step + len(drawn) / 2 for place in range(len(TRUE_COEFFICIENTS))]
    axes.set_xticks(middles, list(TRUE_COEFFICIENTS), rotation=30, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


@click.command()
@click.option("--years", "count", default=100, show_default=True, type=click.IntRange(min=1))
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Where the picture goes.")
@click.option("--to", default=KEPT, type=click.Path(path_type=Path, dir_okay=False), help="Where the result goes.")
def main(count: int, figure: Path | None, to: Path) -> None:
    """Simulates years, and writes how often intervals and gates were right."""
    path = Settings.from_environment().home / "labs" / "insurance-years.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = path.read_text("utf-8").splitlines(keepends=True) if path.is_file() else []
    # The last line may be cut off where the command was killed.
    done = [json.loads(line) for line in lines if line.endswith("\n")]
    write_text(path, "".join(line for line in lines if line.endswith("\n")))
    seeds = range(_FIRST_SEED, _FIRST_SEED + count)
    missing = [(s, e) for s in seeds for e in (EFFECT, 0.0) if (s, e) not in {(y["seed"], y["effect"]) for y in done}]
    with progress_bar() as show, path.open("a", encoding="utf-8") as file:
        for number, (seed, effect) in enumerate(missing):
            show("simulated years", number, len(missing))
            done.append(one_year(seed, effect))
            file.write(json.dumps(done[-1]) + "\n")
            file.flush()
    chosen = [year for year in done if year["seed"] in seeds]
    counts = summary(chosen)
    write_text(to, json.dumps(counts, indent=2) + "\n")
    if figure is not None:
        years_figure(chosen).savefig(figure, dpi=110)
    click.echo(json.dumps(counts, indent=2))


if __name__ == "__main__":
    main()
