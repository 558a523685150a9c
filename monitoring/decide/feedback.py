"""What users said of the answers, as descriptors of the output.

Ingest joins feedback, whenever it arrives, to the hour and the slices of the answer it is about (`summaries`): a label
that comes a week later changes that week's summaries, and those of no pinned reference. Pinning the same window again
takes in what has come meanwhile. Each opinion counts, so that a window has fewer values of it than rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from monitoring.descriptors import Descriptor
from monitoring.store.summaries import Summary

SCORE, LABEL = "feedback.score", "feedback.label"

FEEDBACK: Mapping[str, Descriptor] = {
    SCORE: Descriptor(SCORE, "numeric", "output"),
    LABEL: Descriptor(LABEL, "label", "output"),
}


def feedback_json(summary: Summary) -> dict[str, Any]:
    """How many scores and labels a window has, the mean score and the count of each label."""
    score, label = summary.numbers.get(SCORE), summary.labels.get(LABEL)
    return {
        "scores": score.n if score else 0,
        "mean_score": score.mean if score and score.n else None,
        "labels": dict(sorted(label.counts.items())) if label else {},
    }
