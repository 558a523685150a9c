"""MLflow's server as `llmops ui` starts it: its pages begin with what a comparison is read by.

MLflow opens its assistant at the first visit, and shows of a run's scores those that come first in the alphabet; on a
screen of 1,440 pixels no score is left in sight. Here the assistant waits to be called, and the scorers that decide in
the suites have columns. What a person chooses on the pages is kept by the browser and comes before this.
"""

from __future__ import annotations

import json
import os
from typing import Any

COLUMNS_VARIABLE = "_LLMOPS_COLUMNS"
"""Environment variable: names of scorers, as a JSON list."""

# MLflow's pages read these from the browser's storage when they are drawn; nothing is written there.
_SCRIPT = """<script>(() => {
  const stored = Storage.prototype.getItem, columns = %s;
  Storage.prototype.getItem = function (key) {
    const value = stored.call(this, key);
    if (value !== null) return value;
    if (key === "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1") return "true";
    return key.startsWith("genaiTracesUIState-columns-") ? columns : null;
  };
})()</script>"""


def create_app() -> Any:
    """MLflow's ASGI app, with the script in its page. An entry point of MLflow, for `mlflow server --app-name`."""
    from mlflow.server import app
    from mlflow.server.fastapi_app import app as server

    names = json.loads(os.environ.get(COLUMNS_VARIABLE, "[]"))
    overrides = {"trace_id": False, **{f"{name}_assessment_column": True for name in names}}
    value = json.dumps(json.dumps({"columnOverrides": overrides})).replace("<", "\\u003c")
    script = (_SCRIPT % value).encode()
    page = app.view_functions["serve"]

    def serve() -> Any:
        reply = page()
        if reply.mimetype == "text/html":
            reply.direct_passthrough = False
            text = reply.get_data()
            reply.close()  # the file
            reply.set_data(text.replace(b"<head>", b"<head>" + script, 1))
        return reply

    app.view_functions["serve"] = serve
    return server
