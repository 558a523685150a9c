"""The HTML report of a run: our verdict, then Evidently's tables and plots of both windows.

Verdicts are ours (`drift`): made from all rows, corrected over all descriptors and held to a false-alarm budget and
effect floors, which Evidently's own tests are not. So that its tables cannot contradict them, Evidently is given our
verdict as its test: for each column the adjusted p of the whole app, what it is held against, and whether it drifted.
The plots show at most 5,000 rows of each window, taken from hours that are spread evenly over it.

The file works without a network: Evidently embeds its scripts, and the verdict has none.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from llmops.errors import CannotRun
from monitoring.evidently_import import evidently
from monitoring.show.history import HOUR, strip
from monitoring.show.verdict_page import PageContents, rows_to_show, verdict_section, whole_page
from monitoring.store.rows import DescribedRows, present
from monitoring.store.summaries import Summary
from monitoring.store.windows import WindowReader

if TYPE_CHECKING:
    from monitoring.decide.result import MonitorResult
    from monitoring.stores import Stores

SAMPLE_ROWS = 5_000
HISTORY = timedelta(days=30)
"""So far back the chart of an alarm reaches from the window's end."""
_SEED = 20_011
_VERDICT_TEST = "llmops_verdict"
_registry = threading.Lock()  # of the tests that Evidently knows: one for all reports


def save_report(stores: Stores, result: MonitorResult, reference: Summary, out: Path) -> Path:
    """Writes the report to `out`, making its folder; returns `out`.

    reference: what the window was compared with; its rows need not be in the log: without them the page is our verdict
    alone. Raises CannotRun, StoreUnavailable.
    """
    with _writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)  # first: drawing takes seconds
    reader, descriptors = stores.reader, stores.config.descriptors.descriptors
    window, verdict = result.window, result.to_json()
    texts = {  # as the log has them now; request ids may repeat, so only those of the window
        request_id: record
        for request_id in rows_to_show(verdict)
        for record in stores.log.read(request_id=request_id, app=result.app, since=window.since, until=window.until)
    }
    page = PageContents(
        verdict=verdict,
        before=reference,
        after=reader.whole(result.app, window.since, window.until),
        units={name: each.unit for name, each in descriptors.items()},
        texts=texts,
        history=strip(reader, result.app, window.until - HISTORY, window.until) if verdict["alarms"] else (),
    )
    spans = (result.reference, window) if result.pinned is None or result.pinned.in_log else ()
    samples = [_sample(reader, result.app, span.since, span.until) for span in spans]
    kinds = {
        name: each.kind
        for name, each in descriptors.items()
        if samples and all(name in rows.columns and bool(present(rows.columns[name]).any()) for rows in samples)
    }
    if kinds:
        before, after = (_dataset(rows, kinds) for rows in samples)
        none: dict[str, Any] = {"alpha": 0.0, "descriptors": {}}
        whole = verdict["slices"][0] if verdict["slices"] else none
        section, drifts, alpha = verdict_section(page), whole["descriptors"], float(whole["alpha"])
        text = evidently_page(section, list(kinds), (before, after), drifts, alpha)
    else:
        text = whole_page(page)
    with _writing(out):
        out.write_text(text, encoding="utf-8", errors="replace")
    return out


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CannotRun(f"cannot write the report to {out}: {error.strerror}") from error


def _sample(reader: WindowReader, app: str, since: datetime, until: datetime) -> DescribedRows:
    """At most SAMPLE_ROWS rows; of a large window the same share of every hour, the same ones each time."""
    hours = [(hour, summary.rows) for hour, summary in reader.hours(app, since, until) if summary.rows]
    total = sum(rows for _, rows in hours)
    share, parts, chance = SAMPLE_ROWS / max(total, 1), [], np.random.default_rng(_SEED)
    # All hours, or so many, evenly spread, that reading them is cheap and each still gives a sample.
    step = max(1, min(len(hours) // 48, total // (4 * SAMPLE_ROWS)))
    for hour, rows in hours[::step]:
        part = DescribedRows.concat(reader.parts(app, max(hour, since), min(hour + HOUR, until)))
        wanted = len(part) if share >= 1 else min(len(part), max(1, round(rows * share)))
        parts.append(part.select(np.sort(chance.choice(len(part), wanted, replace=False))))
    return DescribedRows.concat(parts)


def _dataset(rows: DescribedRows, kinds: Mapping[str, str]) -> Any:
    import pandas as pd

    library, columns = evidently(), {}
    for name, kind in kinds.items():
        column = rows.columns[name]
        if kind == "flag":
            columns[name] = np.where(column == 1.0, "yes", "no").astype(object)
            columns[name][np.isnan(column)] = None
        else:
            columns[name] = column.astype(float) if kind == "numeric" else column
    numeric = [name for name, kind in kinds.items() if kind == "numeric"]
    other = [name for name, kind in kinds.items() if kind != "numeric"]
    definition = library.DataDefinition(numerical_columns=numeric, categorical_columns=other)
    return library.Dataset.from_pandas(pd.DataFrame(columns), data_definition=definition)


def evidently_page(
    section: str,
    names: list[str],
    datasets: tuple[Any, Any],
    drifts: Mapping[str, Mapping[str, Any]],
    alpha: float,
    *presets: Any,
) -> str:
    """Evidently's tables and plots of both windows, with our section before them.

    datasets: reference and window. drifts: our verdict on each column: `p_adjusted`, held against alpha, and `drifted`.
    presets: what Evidently shows besides, before drift and summary.
    """
    library = evidently()

    def judged(_reference: Any, current: Any, _kind: Any, _threshold: float) -> tuple[float, bool]:
        drift = drifts.get(str(current.name))
        return (1.0, False) if drift is None else (float(drift["p_adjusted"]), bool(drift["drifted"]))

    kinds = [library.ColumnType.Numerical, library.ColumnType.Categorical]
    with _registry, np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        # It correlates constant columns (the division), and computes R² of classes of the truth with one row, too.
        warnings.filterwarnings("ignore", message="R.2 score is not well-defined")
        # Our verdict is known to Evidently as a test of that name, in the place of the last report's.
        test = library.StatTest(_VERDICT_TEST, "llmops: adjusted p of all rows", kinds, 0.0)
        library.register_stattest(test, judged)
        drift = library.DataDriftPreset(
            columns=names,
            per_column_method=dict.fromkeys(names, _VERDICT_TEST),
            per_column_threshold=dict.fromkeys(names, alpha),
            include_tests=False,
        )
        asked = library.Report([*presets, drift, library.DataSummaryPreset(columns=names)], include_tests=False)
        text = str(asked.run(datasets[1], datasets[0]).get_html_str(as_iframe=False))
    return text.replace("<body>", "<body>" + section, 1)
