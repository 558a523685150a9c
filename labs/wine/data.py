"""The 178 wines as one checked table, with a report of what was found."""

from pathlib import Path
from typing import Any

from labs.data import (
    DataFinding,
    LabData,
    LabelledRows,
    Split,
    check_table,
    converted,
    finite,
    found,
    load_data,
    read_columns,
)
from llmops.settings import Settings
from llmops.tabular import Column, RowSchema

CULTIVARS = ("class_0", "class_1", "class_2")
TARGET = "cultivar"
MEASURED = (
    "alcohol", "malic_acid", "ash", "alcalinity_of_ash", "magnesium", "total_phenols", "flavanoids",
    "nonflavanoid_phenols", "proanthocyanins", "color_intensity", "hue", "od280/od315_of_diluted_wines", "proline",
)  # fmt: skip
"""The columns, as scikit-learn's `load_wine` names them."""
SCHEMA = RowSchema(
    inputs=tuple(Column(name, "number") for name in MEASURED),
    output=Column(TARGET, "text", categories=CULTIVARS),
    task="classification",
)


def load_wine(settings: Settings, source: str | None = None) -> LabData:
    """The wines: a table of `MEASURED` and `cultivar`, a row for each wine.

    source: `file:PATH` of another file of the same form; the catalogue's own when None.

    Raises:
        CannotRun: cannot be read. Corrupted: other bytes than the catalogue's. BadFile: names line and field.
    """
    return load_data("wine", clean, settings, source)


def clean(path: Path) -> tuple[Any, int, list[DataFinding]]:
    """The finished table, the number of rows read, and what was found. Raises BadFile naming line and field."""
    import pandera.pandas as pa

    # scikit-learn's first line holds the numbers of rows and columns, and the names of the classes.
    texts = read_columns(path, (*MEASURED, TARGET))
    table = texts.assign(**{name: converted(path, texts[name], finite, "a number") for name in MEASURED})
    table[TARGET] = converted(path, texts[TARGET], dict(zip("012", CULTIVARS, strict=True)).__getitem__, "0, 1 or 2")
    complete = table.dropna()
    once = complete.drop_duplicates()
    findings = [
        *found("dropped", None, len(table) - len(complete), "rows with an empty value"),
        *found("dropped", None, len(complete) - len(once), "wines that stand in the file twice"),
    ]
    positive = pa.Column("float64", pa.Check.gt(0, error="must be more than 0"))
    schema = pa.DataFrameSchema({**dict.fromkeys(MEASURED, positive), TARGET: pa.Column(object)}, strict=True)
    checked = check_table(path, once.astype(dict.fromkeys(MEASURED, "float64")), schema)
    for name in MEASURED:  # far from all others: more than 4 interquartile ranges from the middle half
        low, high = checked[name].quantile([0.25, 0.75])
        far = ~checked[name].between(low - 4 * (high - low), high + 4 * (high - low))
        findings += found("suspect", name, far.sum(), "readings far from all others; kept")
    findings.append(DataFinding("checked", TARGET, len(checked), "are one of three cultivars"))
    return checked.reset_index(drop=True), len(texts), findings


def halves(data: LabData) -> Split:
    """Two halves with the same shares of each cultivar. So many are held out since 18 wines, the usual tenth, could not
    tell a good model from a middling one."""
    from sklearn.model_selection import train_test_split

    rows = labelled(data.table, "wine", data.fetched.source)
    training, holdout = train_test_split(range(len(rows)), test_size=0.5, stratify=rows.truth, random_state=0)
    return Split(rows.take("wine training half", sorted(training)), rows.take("wine other half", sorted(holdout)))


def labelled(table: Any, name: str, source: str) -> LabelledRows:
    """Rows of the table with the cultivars as truth; each wine stands for itself."""
    ids = tuple(f"wine-{number:03d}" for number in table.index)
    truth = table[TARGET].to_numpy(dtype=object)
    return LabelledRows(name, table[list(MEASURED)], truth, TARGET, ids, ids, source)
