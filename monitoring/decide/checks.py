"""The rules beside the tests of windows, as alarms: sequential detectors, declared limits, the volume of traffic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from monitoring.decide.alarms import ROWS, Alarm, Raised, hits_of
from monitoring.decide.evidence import Telling
from monitoring.decide.limits import LimitFinding
from monitoring.decide.pinned_summaries import PinnedSummaries, Windows
from monitoring.decide.references import PinnedReference
from monitoring.decide.rules import DriftRules
from monitoring.decide.tested_slices import APP, comparable
from monitoring.decide.volume import MOST_WINDOWS, PastWindow, VolumeFinding, judge_volume
from monitoring.decide.watch import STILL_ARRIVING, FlagFinding, Watched, advance_detectors, findings
from monitoring.descriptors import Descriptor

if TYPE_CHECKING:
    from monitoring.decide.detector_store import DetectorStore

_HOUR = timedelta(hours=1)


def watch_flags(
    store: DetectorStore,
    reader: Windows,
    pinned: PinnedReference,
    reference: PinnedSummaries,
    descriptors: Mapping[str, Descriptor],
    rules: DriftRules,
    since: datetime,
    until: datetime,
) -> list[FlagFinding]:
    """Takes the detectors over the rows up to `until`, and says what they found from `since` on.

    Another monitor that is at it at the same moment does it for both. Arguments as `watched_of`.
    Raises StoreUnavailable.
    """
    watched = watched_of(pinned, reference, descriptors, rules)
    advance_detectors(store, reader, watched, min(until, datetime.now(UTC) - STILL_ARRIVING))
    return findings(store, watched, since, until)


def watched_of(
    pinned: PinnedReference, reference: PinnedSummaries, descriptors: Mapping[str, Descriptor], rules: DriftRules
) -> Watched:
    """What the detectors of an app watch. reference: what `pinned` was like; descriptors that mean something else there
    are left out."""
    fitting, _ = comparable(descriptors, reference.whole)
    return Watched(pinned.app, reference, str(pinned.id), pinned.counts_from, fitting, rules)


def sequential_alarms(found: Sequence[FlagFinding]) -> list[Raised]:
    """One alarm for each flag, whichever slices it rose in."""
    by_flag: dict[str, list[FlagFinding]] = {}
    for each in found:
        if each.alarm:
            by_flag.setdefault(each.descriptor.name, []).append(each)
    raised = []
    for name, hits in by_flag.items():
        plainest = min(hits, key=lambda each: each.crossings[-1].p_value)
        labels = tuple(dict(each.label) for each in hits)
        alarm = Alarm(name, plainest.why, (), plainest.descriptor.side, labels, "sequential")
        (dimension, value), *_ = plainest.label.items()
        place = None if dimension == APP else (dimension, value)
        raised.append(Raised(alarm, hits_of(plainest.descriptor, place), plainest.crossings[-1].p_value))
    return raised


def limit_alarms(app: str, found: Sequence[LimitFinding], descriptors: Mapping[str, Descriptor]) -> list[Raised]:
    """One alarm for each broken limit."""
    raised = []
    for each in found:
        if each.broken:
            descriptor = descriptors[each.limit.descriptor]
            alarm = Alarm(descriptor.name, each.why, (), descriptor.side, ({APP: app},), "limit")
            at_most = each.limit.at_most
            telling = hits_of(descriptor) if at_most is None else Telling(descriptor.name, "high", at_most)
            raised.append(Raised(alarm, telling, each.alpha))
    return raised


def volume_of(
    reader: Windows, app: str, since: datetime, until: datetime, rows: int, rules: DriftRules
) -> VolumeFinding | None:
    """The window's number of rows against those of windows of its length before it.

    None for a window that is not some whole hours long, or not over yet. Raises StoreUnavailable.
    """
    length = until - since
    if length < _HOUR or length % _HOUR or until > datetime.now(UTC):
        return None
    past = _past_windows(reader, app, since, length)
    return judge_volume(since, rows, past, rules.volume_alpha(), rules.volume_floor)


def volume_alarms(app: str, found: VolumeFinding | None) -> list[Raised]:
    """The alarm of an unusual number of rows, if it is one; it names no rows."""
    if found is None or not found.alarm:
        return []
    alarm = Alarm(ROWS, found.why, (), "service", ({APP: app},), "volume", "medium")
    return [Raised(alarm, None, found.p_value)]


def _past_windows(reader: Windows, app: str, since: datetime, length: timedelta) -> list[PastWindow]:
    """Those that the log has whole, by hours: they end at the full hour before `since`."""
    end = datetime.fromtimestamp(since.timestamp() // 3600 * 3600, UTC)
    hours = [(hour, each.rows) for hour, each in reader.hours(app, end - MOST_WINDOWS * length, end)]
    if not hours:
        return []
    rows: dict[int, int] = {}
    for hour, count in hours:
        number = -((hour - end) // length)  # 1 for the window that ends at `end`
        rows[number] = rows.get(number, 0) + count
    whole = (end - hours[0][0]) // length
    return [PastWindow(end - number * length, rows.get(number, 0)) for number in range(1, whole + 1)]
