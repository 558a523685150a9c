"""Kinds whose values come from elsewhere: a team's own function, a model, Evidently."""

from __future__ import annotations

from collections.abc import Mapping

from monitoring.descriptors.declared import DescriptorKind
from monitoring.descriptors.evidently_kind import make_evidently
from monitoring.descriptors.judge_kind import make_judge
from monitoring.descriptors.python_kind import make_python
from monitoring.descriptors.similarity_kind import make_similarity

OUTSIDE_KINDS: Mapping[str, DescriptorKind] = {
    "python": DescriptorKind("numeric", make_python, of=("input", "output", "pair", "record")),
    "similarity": DescriptorKind("numeric", make_similarity, of=("pair",)),
    "judge": DescriptorKind("numeric", make_judge, of=("pair",)),
    "evidently": DescriptorKind("numeric", make_evidently),
}
