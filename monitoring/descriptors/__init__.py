"""Descriptors: what is computed from each logged request, declared in the monitor's configuration file.

Names start with the side they describe: `input.…` from the user's message, `output.…` from the answer; the rest are
the log's own columns. A value is None where it makes no sense: an answer that was refused by the gateway, failed or
was cut off by its client has no `output.…`, latency or tokens, so that a burst of errors shows as `error` and not as
thirty shifted texts; and a text that retention deleted has none any more.

Kinds are Evidently's where those are sound, computed for a whole batch at a time; the tests compare the values. Where
Evidently's is wrong for chat the difference is stated at the kind. Nothing is downloaded, and no row stops a run.
"""

from monitoring.descriptors.defaults import default_descriptors
from monitoring.descriptors.descriptor_set import DescriptorSet
from monitoring.descriptors.model import Described, Descriptor, Kind, Side, Value

__all__ = ["Described", "Descriptor", "DescriptorSet", "Kind", "Side", "Value", "default_descriptors"]
