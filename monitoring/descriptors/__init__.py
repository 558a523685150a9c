"""Descriptors: values computed from each logged request, declared in the monitor's configuration file.

Names start with the side they describe: `input.…` from the user's message, `output.…` from the answer; the rest are
the log's own columns. A value is None where it makes no sense. A request that the gateway refused, that failed, or
whose client disconnected has no `output.…`, latency or tokens, so that a burst of errors shows as `error` and not as
thirty shifted texts. A text that retention deleted has no values either.

Kinds are Evidently's where those are sound, computed for a whole batch at a time; the tests compare the values. Where
Evidently's kind is wrong for chat, our kind documents the difference. Nothing is downloaded, and no row stops a run.
"""

from monitoring.descriptors.descriptor_set import DescriptorSet
from monitoring.descriptors.model import Described, Descriptor, Kind, Side, Value

__all__ = ["Described", "Descriptor", "DescriptorSet", "Kind", "Side", "Value"]
