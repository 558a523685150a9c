"""Every kind that can be declared, by its name in the configuration file."""

from __future__ import annotations

from collections.abc import Mapping

from monitoring.descriptors.declared import DescriptorKind
from monitoring.descriptors.log_kinds import LOG_KINDS
from monitoring.descriptors.outside_kinds import OUTSIDE_KINDS
from monitoring.descriptors.text_kinds import TEXT_KINDS
from monitoring.descriptors.word_kinds import WORD_KINDS

KINDS: Mapping[str, DescriptorKind] = {**TEXT_KINDS, **WORD_KINDS, **LOG_KINDS, **OUTSIDE_KINDS}
