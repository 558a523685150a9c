"""A comparison as one HTML page: verdict, metrics, slices, what was compared, and the rows side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports.charts import histogram
from llmops.evaluation.reports.comparison_tables import metric_tables, slice_tables
from llmops.evaluation.reports.contents import Check, Judged, Report, VerdictContents
from llmops.evaluation.reports.identity import identity, prompt_change
from llmops.evaluation.reports.markup import Markup, element, joined
from llmops.evaluation.reports.page import page, section, table, write_page
from llmops.evaluation.reports.row_block import row_block
from llmops.evaluation.reports.row_selection import Selection, most_changed, select
from llmops.evaluation.reports.wording import (
    P_VALUES,
    SIGN_OF_OUTCOME,
    count,
    counted,
    further_reasons,
    interval,
    number,
    sentences,
    summary,
)

MOST_ROWS = 2_000


def html(report: Report, *, most_rows: int = MOST_ROWS) -> str:
    """The page as text. most_rows: rows shown; those that changed most come first, and the page says what is cut."""
    return "".join(_pieces(report, most_rows))


def write_html(report: Report, path: Path, *, most_rows: int = MOST_ROWS) -> None:
    """Writes the page piece by piece, making the file's folder. Raises CannotRun."""
    write_page(_pieces(report, most_rows), path)


def write_verdict_html(judged: Judged, path: Path) -> None:
    """Writes the page of a run that was compared with none: its verdict and its means. Raises CannotRun."""
    write_page(page(judged["title"], _verdict_body(judged), script=False), path)


def _verdict_body(judged: Judged) -> Iterator[str]:
    side = judged["b"]
    about = element("p", f"Suite {judged['suite']} · {judged['created'].replace('T', ' ')}", class_="about")
    yield element("header", about, element("h1", judged["title"]))
    yield "<main>\n"
    yield _verdict(judged, None)
    lines = [
        element(
            "tr",
            element("th", element("bdi", name), scope="row"),
            element("td", number(m["mean"]), element("small", interval(m["ci95"])), class_="figure"),
            element("td", count(m["n_scored"]), class_="figure"),
            element("td", count(m["n_failed"]), class_="figure"),
        )
        for name, m in side["metrics"].items()
    ]
    columns = ("metric", "mean, with 95 % interval", "rows scored", "failed")
    yield section("Metrics", table(f"Means of {side['name']}", columns, lines, "standings"), name="metrics")
    yield "</main>\n"


def _pieces(report: Report, most_rows: int) -> Iterator[str]:
    selection = select(report["rows"], most_rows, most_changed)
    return page(report["title"], _body(report, selection), script=True)


def _body(report: Report, selection: Selection) -> Iterator[str]:
    yield element("a", "Skip to the rows", href="#rows", class_="skip")
    yield _masthead(report)
    yield "<main>\n"
    yield _verdict(report, report["comparison"]["metrics"].get(report["primary"]))
    yield _metrics(report)
    if slices := slice_tables(report):
        note = "p is adjusted over the slices of a metric (Holm). Slices of few rows have wide intervals."
        yield section("Slices", element("p", note, class_="note"), *slices, name="slices")
    if movement := _movement(report, selection):
        yield section("How far rows moved", *movement, name="movement")
    yield section("What was compared", identity(report), name="versions")
    if change := prompt_change(report):
        yield section("The prompt’s text", change, name="prompt")
    yield section("Row by row", *_row_controls(report, selection), name="rows")
    yield "</main>\n"
    yield from row_block(report, selection)


def _masthead(report: Report) -> Markup:
    sides = [
        element("p", element("b", letter), " ", element("bdi", side["name"]))
        for letter, side in (("A", report["a"]), ("B", report["b"]))
    ]
    about = element(
        "p", f"Suite {report['suite']} · {counted(report['comparison']['rows'], 'row')} · ",
        element("time", report["created"].replace("T", " "), datetime=report["created"]), class_="about",
    )  # fmt: skip
    versus = element("div", *sides, class_="versus")
    return joined([element("header", about, element("h1", report["title"]), versus), Markup("\n")])


def _verdict(report: Judged, metric: MetricComparison | None) -> Markup:
    headline = summary(report["primary"], metric, chosen_beforehand=True) if metric else None
    lead = element("p", headline, class_="lead") if headline else None
    verdict = report["verdict"]
    if verdict is None:
        note = element("p", "No gate was asked, so there is no verdict.", class_="note")
        return element("section", element("h2", "No verdict"), lead, note, id="verdict", class_="verdict none")
    outcome = verdict["verdict"]
    heading = element("h2", f"{SIGN_OF_OUTCOME[outcome]} {outcome.capitalize()}")
    return element("section", heading, lead, _reasons(verdict), id="verdict", class_=f"verdict {outcome}")


def _reasons(verdict: VerdictContents) -> Markup:
    """The gate's checks, and what its reasons say besides."""
    checks, further = verdict.get("checks"), further_reasons(verdict)
    columns = ("", "check", "what was found")
    shown = table("What the gate checked", columns, map(_check_line, checks), "checks") if checks else None
    return joined([shown, element("ul", *(element("li", reason) for reason in further)) if further else None])


def _check_line(check: Check) -> Markup:
    outcome = element("td", f"{SIGN_OF_OUTCOME[check['outcome']]} {check['outcome']}", class_=check["outcome"])
    name = element("th", check["name"], element("small", f"{check['kind']} · {check['metric']}"), scope="row")
    return element("tr", outcome, name, element("td", check["detail"], class_="wide"))


def _metrics(report: Report) -> Markup:
    comparison = report["comparison"]
    shaded = any(metric.detectable for metric in comparison["metrics"].values())
    key = f"▲ better, ▼ worse, ◆ changed, ○ no clear difference. {P_VALUES}"
    band = " The grey band holds differences too small to be detected with so many rows." if shaded else ""
    told = comparison.get("rows_told")
    return section(
        "Metrics",
        element("p", told) if told else Markup(""),
        *metric_tables(report),
        element("p", key, band, class_="note"),
        *(element("p", sentence) for sentence in sentences(comparison)),
        name="metrics",
    )


def _movement(report: Report, selection: Selection) -> list[Markup]:
    """A histogram for each metric of numbers that changed at all, side by side."""
    metrics = report["comparison"]["metrics"]
    figures = []
    for name, changes in selection.changes.items():
        if any(changes):
            known = metrics.get(name)
            drawn = histogram(changes, higher_is_better=known.higher_is_better if known else None)
            caption = element("figcaption", element("b", element("bdi", name)), f" {counted(len(changes), 'row')}")
            figures.append(element("figure", caption, drawn))
    note = "Rows by B − A; the bar at 0 holds the rows that did not change."
    return [element("p", note, class_="note"), element("div", *figures, class_="figures")] if figures else []


def _row_controls(report: Report, selection: Selection) -> list[Markup]:
    names = dict.fromkeys((*report["comparison"]["metrics"], *(n for row in selection.rows for n in row["scores"])))
    metrics = [element("option", name, value=name, selected=name == report["primary"]) for name in names]
    outcomes = [element("option", kind, value=kind) for kind in ("all", "worse", "better", "same", "failed")]
    search = element("input", type="search", id="search", autocomplete="off", placeholder="any word of a row")
    controls = element(
        "form",
        _labelled("Text", "search", search),
        _labelled("Slice", "slice", element("select", *_slice_options(selection), id="slice")),
        _labelled("Metric", "metric", element("select", *metrics, id="metric")),
        _labelled("Rows that", "outcome", element("select", *outcomes, id="outcome")),
        id="filters",
        role="search",
        aria_label="Choose rows",
    )
    cut = selection.sentence("those that changed most")
    return [
        element("p", cut, class_="note") if cut else Markup(""),
        controls,
        element("p", id="shown", role="status"),
        element("div", id="list"),
        element("button", "Show more", type="button", id="more", hidden=True),
        element("noscript", element("p", "The rows are listed by a script in this file; this browser runs none.")),
    ]


def _labelled(text: str, name: str, control: Markup) -> Markup:
    return element("div", element("label", text, for_=name), control)


def _slice_options(selection: Selection) -> list[Markup]:
    found: dict[str, Counter[str]] = {}
    for row in selection.rows:
        for tag, value in row["tags"].items():
            found.setdefault(tag, Counter())[value] += 1
    groups = [
        element("optgroup", *(_slice_option(tag, value, n) for value, n in sorted(values.items())), label=tag)
        for tag, values in sorted(found.items())
    ]
    return [element("option", "all rows", value=""), *groups]


def _slice_option(tag: str, value: str, rows: int) -> Markup:
    return element("option", f"{value} ({count(rows)})", value=f"{tag}={value}")
