"""The configuration shown in docs/monitoring.md is one that the monitor takes."""

from __future__ import annotations

import re
from pathlib import Path

from llmops.settings import Settings
from monitoring.config import read_config
from monitoring.descriptors.descriptor_set import DEFAULT_FILE

GUIDE = Path(__file__).parents[2] / "docs" / "monitoring.md"


def test_the_tables_of_the_guide_together_with_the_default_descriptors_are_read(tmp_path: Path) -> None:
    shown = re.findall(r"```toml\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)
    descriptors = DEFAULT_FILE.read_text(encoding="utf-8").partition("# --- Slices")[0]
    file = tmp_path / "monitor.toml"
    file.write_text("\n".join([descriptors, *shown]), encoding="utf-8")

    config = read_config(Settings(home=tmp_path, monitor_config=file))

    assert len(shown) >= 6
    assert config.descriptors.descriptors["output.no_source"].harmful
    assert config.slices == ("release", "route")
    assert [limit.descriptor for limit in config.limits] == ["output.refusal", "latency_ms"]
    assert config.policies["assistant"].action == "rollback"
    assert config.alerts.slack[0].name == "channel"
    assert config.reference.at_promotion == "first-window"
