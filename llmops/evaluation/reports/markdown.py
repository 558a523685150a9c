"""A comparison or a leaderboard as Markdown: what a comment on a pull request shows."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llmops.evaluation.metric_comparison import MetricComparison
from llmops.evaluation.reports.contents import Check, Judged, Leaderboard, Report, Row
from llmops.evaluation.reports.row_selection import select, worst_first
from llmops.evaluation.reports.wording import (
    P_VALUES,
    SIGN_OF_OUTCOME,
    Standing,
    cell_figures,
    count,
    counted,
    failed_in_pairs,
    further_reasons,
    gain,
    interval,
    interval_told,
    number,
    outcomes,
    primary_direction,
    printable,
    probability,
    rank,
    sentences,
    shortened,
    signed,
    standing,
    summary,
)

MOST_ROWS = 10
_MOST_SLICES = 20
_LONGEST_TEXT = 200
# What has a meaning in Markdown, HTML or GitHub's additions (mentions, issues, links, emoji), wherever it stands or at
# the beginning of a line.
_MEANINGFUL = re.compile(r"""[!"#$&*<>@\[\\\]^_`{|}~]|:(?=\S)|(?<=www)\.|^[-+=]|(?<=\d)[.)](?=\s|$)""", re.IGNORECASE)


def markdown(report: Report) -> str:
    """The comparison as a comment: the verdict's line first. At most 10 rows that got worse, 20 slices that moved."""
    blocks = [
        _verdict_line(report),
        _headline(report),
        _rows_told(report),
        _reasons(report),
        _metrics(report),
        _slices(report),
        _sentences(report),
        _regressions(report),
        escaped(f"A: {report['a']['name']}, B: {report['b']['name']}. Suite {report['suite']}, {report['created']}."),
    ]
    return "\n\n".join(block for block in blocks if block) + "\n"


def verdict_markdown(judged: Judged) -> str:
    """The verdict on a run that was compared with none, and its means."""
    lines = [
        (escaped(name), number(m["mean"]), interval(m["ci95"]), count(m["n_scored"]), count(m["n_failed"]))
        for name, m in judged["b"]["metrics"].items()
    ]
    means = _table(("metric", "mean#", "95 % interval#", "scored#", "failed#"), lines)
    about = escaped(f"{judged['b']['name']}. Suite {judged['suite']}, {judged['created']}.")
    return "\n\n".join([_verdict_line(judged), _reasons(judged), means, about]) + "\n"


def leaderboard_markdown(board: Leaderboard) -> str:
    """The cells as a table, best first, and the differences that are real."""
    lines = [
        (
            rank(cell["rank_range"]),
            escaped(cell["name"]),
            number(cell["mean"]),
            interval(cell["ci95"]),
            count(cell["n_scored"]),
            *cell_figures(cell),
            count(cell["tokens_out"]),
            number(cell["cost"]),
            count(cell["latency_ms_p50"]),
        )
        for cell in board["cells"]
    ]
    counts = ("scored#", "failed#", "cut off#", "empty#")
    head = ("rank#", "cell", f"{escaped(board['primary'])}#", "95 % interval#", *counts, "tokens#", "USD#")
    title = (
        f"**Leaderboard of {escaped(board['suite'])}**, {counted(board['rows'], 'row')}, by {escaped(board['primary'])}"
    )
    failed = failed_in_pairs(board) if board["pairs"] else None
    told = [f"<sub>{escaped(failed)}</sub>"] if failed else []
    return "\n\n".join([title, _table((*head, "median ms#"), lines), *_real_pairs(board), *told]) + "\n"


def escaped(text: str) -> str:
    """The text in one line, with every character that could mean something as a numeric entity: it stays itself
    wherever it is put, in a table's cell too."""
    return _MEANINGFUL.sub(lambda found: f"&#{ord(found[0])};", " ".join(printable(text).split()))


def _verdict_line(report: Judged) -> str:
    verdict = report["verdict"]
    shown = f"{SIGN_OF_OUTCOME[verdict['verdict']]} {verdict['verdict']}" if verdict else "no verdict"
    return f"**{shown}**: {escaped(report['title'])}"


def _headline(report: Report) -> str:
    metric = report["comparison"]["metrics"].get(report["primary"])
    return escaped(summary(report["primary"], metric, chosen_beforehand=True)) if metric else ""


def _rows_told(report: Report) -> str:
    """What became of the rows, where no verdict says so."""
    return "" if report["verdict"] else escaped(report["comparison"].get("rows_told", ""))


def _reasons(report: Judged) -> str:
    verdict = report["verdict"]
    if verdict is None:
        return ""
    further = (f"- {escaped(reason)}" for reason in further_reasons(verdict))
    return "\n".join((*map(_check, verdict.get("checks", ())), *further))


def _check(check: Check) -> str:
    return f"- {SIGN_OF_OUTCOME[check['outcome']]} {escaped(check['name'])}: {escaped(check['detail'])}"


def _metrics(report: Report) -> str:
    lines = [
        _difference(name, metric, chosen_beforehand=name == report["primary"])
        for name, metric in report["comparison"]["metrics"].items()
    ]
    return f"{_difference_table('metric', lines)}\n\n<sub>Bold: significant. {escaped(P_VALUES)}</sub>" if lines else ""


def _slices(report: Report) -> str:
    """The slices with a significant difference; the worst are kept when there are many."""
    moved: list[tuple[float, tuple[str, ...]]] = []
    for part, metrics in report["comparison"]["slices"].items():
        for name, metric in metrics.items():
            if standing(metric, chosen_beforehand=False) is not Standing.UNDECIDED:
                gained = gain(metric.difference, metric.higher_is_better)
                line = _difference(f"{part}: {name}", metric, chosen_beforehand=False)
                moved.append((gained or 0.0, line))
    if not moved:
        return "No slice moved significantly." if report["comparison"]["slices"] else ""
    moved.sort(key=lambda item: item[0])
    cut = f" The {_MOST_SLICES} worst of {count(len(moved))}." if len(moved) > _MOST_SLICES else ""
    return f"Slices that moved.{cut}\n\n" + _difference_table("slice", [line for _, line in moved[:_MOST_SLICES]])


def _difference(name: str, metric: MetricComparison, *, chosen_beforehand: bool) -> tuple[str, ...]:
    found = standing(metric, chosen_beforehand=chosen_beforehand)
    p_value = metric.p_value if chosen_beforehand else metric.p_adjusted
    strong = "" if found is Standing.UNDECIDED else "**"
    return (
        escaped(name),
        number(metric.a),
        number(metric.b),
        f"{strong}{found.mark} {signed(metric.difference)}{strong}",
        interval_told(metric),
        escaped(probability(p_value)),
        f"{strong}{found.value}{strong}",
        outcomes(metric),
    )


def _difference_table(first: str, lines: Iterable[Sequence[str]]) -> str:
    columns = (first, "A#", "B#", "B − A#", "95 % interval#", "p#", "B is", "rows")
    return _table(columns, lines)


def _sentences(report: Report) -> str:
    return escaped(" ".join(sentences(report["comparison"])))


def _regressions(report: Report) -> str:
    higher = primary_direction(report)
    worse = (row for row in report["rows"] if (gain(row["change"], higher) or 0.0) < 0)
    selection = select(worse, MOST_ROWS, worst_first(higher))
    if not selection.rows:
        return ""
    which = f"the {len(selection.rows)} worst of them" if selection.total > len(selection.rows) else "all of them"
    title = f"{counted(selection.total, 'row')} got worse in {escaped(report['primary'])}: {which}"
    columns = ("row", "change#", "input", "expected", "A answered", "B answered")
    table = _table(columns, (_regression(row) for row in selection.rows))
    return f"<details><summary>{title}</summary>\n\n{table}\n\n</details>"


def _regression(row: Row) -> tuple[str, ...]:
    answers = [
        _quoted(row["output_a"], row.get("error_a")),
        _quoted(row["output_b"], row.get("error_b")),
    ]
    inputs, expected = (" · ".join(_texts(part)) for part in (row["inputs"], row["expectations"]))
    change = signed(row["change"]) if row["change"] is not None else ""
    return (_quoted(row["id"]), change, _quoted(inputs), _quoted(expected), *answers)


def _quoted(text: str, error: str | None = None) -> str:
    """A text from outside, as code: there, nobody is mentioned and nothing is linked."""
    shown = f"failed: {error}" if error else text
    return f"<code>{escaped(shortened(shown, _LONGEST_TEXT))}</code>" if shown.strip() else ""


def _texts(value: Any) -> list[str]:
    """Every text and number in a JSON value, each once."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return list(dict.fromkeys(text for part in value for text in _texts(part)))
    return [] if value is None else [str(value)]


def _real_pairs(board: Leaderboard) -> list[str]:
    real = [pair for pair in board["pairs"] if pair["real"]]
    if not board["pairs"]:
        return []
    if not real:
        return [f"None of the {count(len(board['pairs']))} differences is real: the rows cannot tell the cells apart."]
    lines = [
        (
            escaped(pair["better"]),
            escaped(pair["worse"]),
            signed(pair["difference"]),
            interval(pair["ci95"], of_difference=True),
            escaped(probability(pair["p_adjusted"])),
        )
        for pair in real
    ]
    title = f"Differences that are real ({count(len(real))} of {count(len(board['pairs']))}):"
    return [title, _table(("better", "than", "by#", "95 % interval#", "p#"), lines)]


def _table(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Columns whose name ends in `#` are numbers, and are set right. Cells are Markdown already."""
    head = " | ".join(column.removesuffix("#") for column in columns)
    rule = " | ".join("---:" if column.endswith("#") else "---" for column in columns)
    return "\n".join(f"| {line} |" for line in (head, rule, *(" | ".join(cells) for cells in lines)))
