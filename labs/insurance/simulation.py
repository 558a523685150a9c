"""A made-up car insurer: its policies, their claims, and the accidents of their areas. Everything here is simulated.

Policies are those of the package `insurance-datasets` (MIT), which publishes the true coefficients of its claims. It
knows nothing of accidents, and its claims are not used. What is drawn here instead, in this order:

1. A latent risk z of each area and month: standard normal, and like the month before (AR(1)).
2. Claims of each policy and month, Poisson: the package's rate, times exp(EFFECT z − EFFECT² / 2), whose mean is 1.
3. Accidents of each area and month, Poisson, in proportion to the traffic, times exp(ACCIDENT_EFFECT z − …).

2 and 3 are drawn independently, from z alone: no accident ever makes a claim. Since z does not depend on the policies
and the factor's mean is 1, the package's coefficients, intercept included, are the true ones of a Poisson regression
that does not know z. The rate of accidents does not depend on the band, so they stay true when it is added.

Two things change on the way, as stated: `MIX_FROM` and `RISE_FROM`.
"""

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from insurance_datasets import MOTOR_TRUE_FREQ_PARAMS, load_motor

POLICIES = 44_000
"""So that the rows of a quarter fit into one request of the gateway, which takes a megabyte."""
SEED = 2019
AREAS_OF_A_BAND = 20
FIRST_MONTH, LAST_MONTH = "2018-07", "2023-12"
PERSISTENCE = 0.95
"""Of z, from one month to the next."""
EFFECT, ACCIDENT_EFFECT = 0.4, 0.5
"""Of one standard deviation of z on the logarithm of claims, and of accidents."""
ACCIDENTS_PER_MILLION_KM = 0.8
MIX_FROM = "2022-01-01"
"""From here on a new way of selling brings twice as many drivers under 25 as before: a change of whom the company
insures, and of nothing else."""
RISE_FROM, RISE = "2022-10-01", 1.45
"""From here on the same accidents bring so many times the claims: garages report what used to be settled privately."""
_DELAYS = (0.45, 0.3, 0.15, 0.1)
"""Shares of claims that are reported in the month in which they happen, and one, two and three months later."""
_DAYS_OF_A_YEAR = 365.25
TRUE_COEFFICIENTS = {
    "intercept": MOTOR_TRUE_FREQ_PARAMS["intercept"],
    "young": MOTOR_TRUE_FREQ_PARAMS["driver_age_young"],
    "old": MOTOR_TRUE_FREQ_PARAMS["driver_age_old"],
    "convicted": MOTOR_TRUE_FREQ_PARAMS["has_convictions"],
    "vehicle_group": MOTOR_TRUE_FREQ_PARAMS["vehicle_group"],
    "ncd_years": MOTOR_TRUE_FREQ_PARAMS["ncd_years"],
    **{f"band_{band}": MOTOR_TRUE_FREQ_PARAMS[f"area_{band}"] for band in "BCDEF"},
}
"""Of the logarithm of claims in a year. young: 1 under 25, then in a line down to 0 at 30; old: 1 from 70 on."""


@dataclass(frozen=True, eq=False, slots=True)
class Tables:
    """pandas DataFrames of the company's three sources, and what only a simulation knows.

    policies: `policy`, `start`, `end` (the first day without cover), `area`, `band`, and what is rated.
    claims: `claim`, `policy`, `happened`, `reported` (a month, as its first day).
    accidents: `area`, `month` (its first day), `accidents`, `traffic` in million vehicle kilometres.
    latent: z, with a row for each area and a column for each month.
    """

    policies: pd.DataFrame
    claims: pd.DataFrame
    accidents: pd.DataFrame
    latent: pd.DataFrame


def simulate(seed: int = SEED, policies: int = POLICIES, *, effect: float = EFFECT, last: str = LAST_MONTH) -> Tables:
    """The same tables for the same arguments. effect: of z on claims; at 0 accidents do not tell them. last: month."""
    drawn = np.random.default_rng([seed, 1])
    months = pd.date_range(FIRST_MONTH, last, freq="MS")
    written = _policies(seed, policies, drawn)
    areas = [f"{band}{number:02d}" for band in "ABCDEF" for number in range(1, AREAS_OF_A_BAND + 1)]
    latent = pd.DataFrame(_autoregressive(drawn, len(areas), len(months)), index=areas, columns=months)
    traffic = drawn.lognormal(np.log(60), 0.3, size=(len(areas), 1)) * np.ones((1, len(months)))
    expected = ACCIDENTS_PER_MILLION_KM * traffic * np.exp(ACCIDENT_EFFECT * latent - ACCIDENT_EFFECT**2 / 2)
    accidents = pd.DataFrame(
        {
            "area": np.repeat(areas, len(months)),
            "month": np.tile(months, len(areas)),
            "accidents": drawn.poisson(expected).ravel(),
            "traffic": traffic.round(1).ravel(),
        }
    )
    return Tables(written, _claims(written, latent, effect, drawn), accidents, latent)


def rates(policies: pd.DataFrame) -> Any:
    """The package's expected claims in a year of each policy: a numpy array."""
    age, true = policies["driver_age"].to_numpy(), TRUE_COEFFICIENTS
    effect = true["intercept"] + true["young"] * np.clip((30 - age) / 5, 0, 1) + true["old"] * (age >= 70)
    effect = effect + true["vehicle_group"] * policies["vehicle_group"] + true["ncd_years"] * policies["ncd_years"]
    effect = effect + true["convicted"] * (policies["conviction_points"] > 0)
    return np.exp(effect + policies["band"].map(lambda band: true.get(f"band_{band}", 0.0))).to_numpy()


def _policies(seed: int, policies: int, drawn: np.random.Generator) -> pd.DataFrame:
    made = load_motor(policies, seed)
    start, end = pd.to_datetime(made["inception_date"]), pd.to_datetime(made["expiry_date"])
    # Half of the drivers under 25 are not insured at first: they come with the new way of selling.
    kept = (made["driver_age"] >= 25) | (start >= MIX_FROM) | (drawn.random(policies) < 0.5)
    number = drawn.integers(1, AREAS_OF_A_BAND + 1, policies)
    rated = ("driver_age", "ncd_years", "conviction_points", "vehicle_group", "vehicle_age", "annual_mileage")
    written = pd.DataFrame(
        {
            "policy": made["policy_id"],
            "start": start,
            "end": end,
            "area": [f"{band}{each:02d}" for band, each in zip(made["area"], number, strict=True)],
            "band": made["area"],
            **{name: made[name] for name in rated},
        }
    )
    return written[kept].reset_index(drop=True)


def _autoregressive(drawn: np.random.Generator, rows: int, columns: int) -> Any:
    values = drawn.standard_normal((rows, columns))
    for column in range(1, columns):
        values[:, column] *= np.sqrt(1 - PERSISTENCE**2)
        values[:, column] += PERSISTENCE * values[:, column - 1]
    return values


def factors(latent: pd.DataFrame, effect: float) -> pd.DataFrame:
    """What the package's rate is multiplied by in each area and month."""
    later = np.where(latent.columns >= pd.Timestamp(RISE_FROM), RISE, 1.0)
    return np.exp(effect * latent - effect**2 / 2) * later


def _claims(policies: pd.DataFrame, latent: pd.DataFrame, effect: float, drawn: np.random.Generator) -> pd.DataFrame:
    rate, factor = rates(policies), factors(latent, effect)
    area = latent.index.get_indexer(policies["area"])
    parts = []
    for place, month in enumerate(latent.columns):
        begins = np.maximum(policies["start"].to_numpy(), month.to_datetime64())
        ends = np.minimum(policies["end"].to_numpy(), (month + pd.offsets.MonthBegin(1)).to_datetime64())
        days = ((ends - begins) / np.timedelta64(1, "D")).clip(min=0)
        count = drawn.poisson(rate * factor.iloc[:, place].to_numpy()[area] * days / _DAYS_OF_A_YEAR)
        hit = np.repeat(np.arange(len(policies)), count)
        happened = begins[hit] + (drawn.random(len(hit)) * days[hit]).astype(int).astype("timedelta64[D]")
        parts.append(pd.DataFrame({"policy": policies["policy"].to_numpy()[hit], "happened": happened}))
    claims = pd.concat(parts, ignore_index=True)
    delay = drawn.choice(len(_DELAYS), len(claims), p=_DELAYS)
    months = claims["happened"].to_numpy().astype("datetime64[M]") + delay.astype("timedelta64[M]")
    return pd.DataFrame({"claim": np.arange(1, len(claims) + 1), **claims, "reported": months.astype("datetime64[ns]")})


def write(tables: Tables, path: Path, seed: int = SEED) -> None:
    """The company's exports, as a zip of `policies.csv`, `claims.csv` and `accidents.csv`: the same bytes for the same
    tables. They have the faults that exports have: rows twice, lower case, claims on policies of others, months that
    were never sent. All are put in at random here, and found again when the file is read."""
    drawn = np.random.default_rng([seed, 2])
    policies, claims, accidents = (tables.policies.copy(), tables.claims, tables.accidents)
    some = drawn.choice(len(policies), min(240, len(policies) // 4), replace=False)
    column = policies.columns.get_loc("band")
    policies.iloc[some, column] = policies.iloc[some, column].str.lower()
    policies = pd.concat([policies, policies.iloc[some[: len(some) // 4]]])
    again = claims.iloc[drawn.choice(len(claims), len(claims) // 200, replace=False)]
    strangers = claims.iloc[drawn.choice(len(claims), len(claims) // 400, replace=False)]
    strangers = strangers.assign(claim=strangers["claim"] + 10**6, policy=strangers["policy"] + 10**6)
    claims = pd.concat([claims, again, strangers]).sort_values(["reported", "claim"], kind="stable")
    accidents = accidents[drawn.random(len(accidents)) >= 0.01]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, table in (("policies", policies), ("claims", claims), ("accidents", accidents)):
            text = io.StringIO()
            shown = table.assign(
                **{name: table[name].dt.strftime("%Y-%m") for name in ("month", "reported") if name in table}
            )
            shown.to_csv(text, index=False, date_format="%Y-%m-%d", lineterminator="\n")
            archive.writestr(
                zipfile.ZipInfo(f"{name}.csv", (1980, 1, 1, 0, 0, 0)), text.getvalue(), zipfile.ZIP_DEFLATED
            )
