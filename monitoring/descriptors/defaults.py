"""The descriptors of the packaged configuration."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from llmops.settings import Settings
from monitoring.descriptors.descriptor_set import DescriptorSet

DEFAULT_FILE = Path(__file__).parent.parent / "default.toml"


def default_descriptors(settings: Settings | None = None) -> DescriptorSet:
    """The descriptors that `monitoring/default.toml` declares."""
    values: dict[str, Any] = tomllib.loads(DEFAULT_FILE.read_text(encoding="utf-8"))
    return DescriptorSet.from_config(values["descriptor"], settings, file=DEFAULT_FILE)
