"""The `[alerts]` table: read strictly; secrets only by the names of variables."""

from __future__ import annotations

from typing import Any

import pytest

from llmops.errors import BadFile
from llmops.settings import named_variables
from monitoring.act.alerts.outbox import make_channels
from monitoring.act.alerts.settings import AlertSettings, read_alerts

SECRET = "s3cret-token"


def test_settings_are_read_from_toml_strictly() -> None:
    read = read_alerts(
        {
            "cool_down": "2h",
            "webhook": [{"url": "https://ops.example/hook", "secret_variable": "OPS"}],
            "slack": [{"name": "chat", "url_variable": "CHAT"}],
            "email": [{"host": "smtp", "from": "a@b", "to": ["c@d"], "user": "u", "password_variable": "PW"}],
            "prometheus": {"textfile": "/tmp/llmops.prom"},
        },
        "m.toml",
    )
    assert read.cool_down == 7200
    assert [channel.name for channel in read.channels] == ["webhook", "chat", "email"]
    assert read.email[0].resolved_port == 587
    assert read.variables == ("CHAT", "OPS", "PW")
    assert read_alerts({}, "m.toml") == AlertSettings()
    assert [channel.name for channel in make_channels(read, {})] == ["webhook", "chat", "email"]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"cooldown": "2h"}, "did you mean cool_down"),
        ({"webhook": [{"name": "x"}]}, "either url or url_variable"),
        ({"webhook": [{"url": "https://a:b@c/"}]}, "without a password"),
        ({"webhook": [{"url": "https://c/", "secret": "x"}]}, "did you mean secret_variable"),
        ({"slack": [{"name": "x", "url": "https://a/"}, {"name": "x", "url": "https://b/"}]}, "two channels"),
        ({"email": [{"host": "h", "from": "a@b", "to": ["c@d"], "security": "ssl"}]}, "starttls"),
        ({"email": [{"host": "h", "from": "a@b", "to": ["c\n@d"]}]}, "one line"),
        ({"email": [{"host": "h", "from": "a", "to": ["b"], "user": "u", "password_variable": "P",
                     "security": "none"}]}, "in the clear"),
        ({"row_url": "https://ops/"}, "request_id"),
        ({"prometheus": {"textfile": "/tmp/x.txt"}}, "end in .prom"),
        ({"webhook": {"url": "https://c/"}}, r"\[\[alerts.webhook\]\]"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_an_error_that_names_it(table: dict[str, Any], problem: str) -> None:
    with pytest.raises(BadFile, match=problem) as wrong:
        read_alerts(table, "m.toml")
    assert "a:b@c" not in str(wrong.value)


def test_only_variables_that_are_named_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPS_SECRET", SECRET)
    assert named_variables(["OPS_SECRET", "NO_SUCH_VARIABLE"]) == {"OPS_SECRET": SECRET}
