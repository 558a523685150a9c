"""Forgets a user or a request everywhere, and proves it: log, monitor, MLflow's traces, and the files' bytes."""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from llmops.errors import CannotRun
from llmops.production_log import Belongings, Erased, ProductionLog, open_engine
from llmops.recording.forgetting import Traces
from llmops.settings import Settings
from monitoring import deletion
from monitoring.act.actions import evidence_folder
from monitoring.store.database import reading

_PASSES = 5
_EVIDENCE = "evidence_files"
NOT_REACHED = (
    "backups, exported files, eval sets made from the log, OpenTelemetry's backend",
    "what MLflow keeps of the monitor's actions: it names request ids, and no text and no user",
)
"""What nobody here can find."""


@dataclass(slots=True)
class Receipt:
    """What was deleted (or, with `dry_run`, would be), by table, and what a second look found left of it."""

    asked: Mapping[str, str]
    dry_run: bool
    at: datetime
    deleted: Counter[str] = field(default_factory=Counter)
    left: dict[str, int] = field(default_factory=dict)
    erased: Erased | None = None
    seconds: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether nothing is left; a dry run leaves everything, and is complete all the same."""
        found = self.erased.found if self.erased is not None else 0
        return self.dry_run or not (any(self.left.values()) or found)

    def to_json(self) -> dict[str, Any]:
        names = sorted(self.deleted.keys() | self.left.keys())
        return {
            **self.asked,
            "dry_run": self.dry_run,
            "at": self.at.isoformat(),
            "tables": {name: {"deleted": self.deleted.get(name, 0), "left": self.left.get(name, 0)} for name in names},
            "files": dataclasses.asdict(self.erased) if self.erased is not None else None,
            "complete": self.complete,
            "not_reached": list(NOT_REACHED),
            "seconds": round(self.seconds, 3),
        }


def forget(
    settings: Settings, *, user: str | None = None, request_id: str | None = None, dry_run: bool = False
) -> Receipt:
    """Deletes all of a user's records, or of a request's, and everything made of them.

    First MLflow's traces, then log and monitor in one transaction: a forgetting that is cut short finds everything
    again. Then it looks a second time, and deletes what a request, an ingest or an export under way has written since.

    Raises:
        StoreUnavailable: the log or MLflow cannot be reached.
        CannotRun: the database's files are in use all the time.
    """
    asked = {name: value for name, value in (("user", user), ("request_id", request_id)) if value is not None}
    start, receipt = time.monotonic(), Receipt(asked, dry_run, datetime.now(UTC))
    log = ProductionLog(settings.resolved_log_url)
    try:
        found = log.belongings(**asked)
        if dry_run:
            receipt.deleted.update({**log.still_holds(found), **_monitor_holds(settings, found)})
            receipt.deleted[_EVIDENCE] = _forget_evidence(settings, found, dry_run=True)
        else:
            _forget(settings, log, found, receipt)
    finally:
        log.close()
    receipt.seconds = time.monotonic() - start
    return receipt


def _forget(settings: Settings, log: ProductionLog, found: Belongings, receipt: Receipt) -> None:
    traces = Traces(settings)
    of_monitor: dict[str, int] = {}
    for _ in range(_PASSES):
        exported = traces.forget(found)
        receipt.deleted.update(exported)
        with log.forgetting(found) as (connection, deleted):
            receipt.deleted.update(deleted)
            receipt.deleted.update(deletion.forget(connection, found))
        receipt.deleted[_EVIDENCE] += _forget_evidence(settings, found)
        found = found | log.belongings(**receipt.asked)
        of_monitor = _monitor_holds(settings, found)
        receipt.left = {**log.still_holds(found), **of_monitor, **traces.forget(found)}
        receipt.left[_EVIDENCE] = _forget_evidence(settings, found)
        receipt.deleted.update({name: receipt.left[name] for name in exported})
        if not any(receipt.left.values()):
            break
    receipt.erased = log.erase(found, receipt.deleted.keys() & of_monitor.keys())  # not all that is counted is a table
    if receipt.deleted["traces"] + receipt.deleted["assessments"]:
        traces.erase(found)


def _forget_evidence(settings: Settings, found: Belongings, *, dry_run: bool = False) -> int:
    """Takes it out of the files that retrain commands were given; returns of how many."""
    changed = 0
    for path in sorted(evidence_folder(settings.home).glob("*.json")):
        try:
            old = json.loads(path.read_bytes())
            new = deletion.nameless(old, found)
            if new == old:
                continue
            if not dry_run:
                path.write_text(json.dumps(new, ensure_ascii=False, indent=2), encoding="utf-8")
        except FileNotFoundError:
            continue
        except ValueError:  # the half of a file; its order, which has the whole, writes it again
            if not dry_run:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise CannotRun(f"{path}: cannot be read and written: {error.strerror}") from error
        changed += 1
    return changed


def _monitor_holds(settings: Settings, found: Belongings) -> dict[str, int]:
    engine = open_engine(settings.resolved_log_url)
    try:
        with reading(engine) as connection:
            return deletion.still_holds(connection, found)
    finally:
        engine.dispose()
