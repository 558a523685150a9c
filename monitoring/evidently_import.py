"""Evidently, imported in one place: quiet, without telemetry, and only when it is first needed.

The import takes seconds and some 250 MiB, so nothing may import it at module level, and the gateway never does.
"""

import contextlib
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any


@cache
def evidently() -> Any:
    """The names of Evidently used here, as attributes of one object."""
    with _quietly():
        from evidently import (  # noqa: F401 - all names are returned
            BinaryClassification,
            DataDefinition,
            Dataset,
            MulticlassClassification,
            Regression,
            Report,
            descriptors,
        )
        from evidently.legacy.calculations.stattests import StatTest, register_stattest  # noqa: F401
        from evidently.legacy.core import ColumnType  # noqa: F401
        from evidently.presets import (  # noqa: F401
            ClassificationPreset,
            DataDriftPreset,
            DataSummaryPreset,
            RegressionPreset,
        )
    return SimpleNamespace(**locals())


@contextmanager
def _quietly() -> Iterator[None]:
    os.environ.setdefault("DO_NOT_TRACK", "1")  # read once, while Evidently is imported
    with warnings.catch_warnings():
        # Evidently 0.7 touches numpy.core, and its UI part old names of litestar; neither is ours to mend.
        warnings.filterwarnings("ignore", category=DeprecationWarning, message="numpy.core is deprecated")
        warnings.filterwarnings("ignore", message=".*Deprecated in litestar")
        yield


def serve_workspace(folder: Path, host: str, port: int) -> None:
    """Runs Evidently's own interface on a workspace until it is interrupted. Sends nothing to anybody."""
    with _quietly():
        from evidently.ui.service.app import get_config, run

        config = get_config(host=host, port=port, workspace=str(folder))
        config.telemetry.enabled = False
        with contextlib.redirect_stdout(sys.stderr):  # it prints what it is made of
            run(config)


@contextmanager
def without_nltk_downloads() -> Iterator[None]:
    """While it lasts, nltk finds its data in its folders or not at all: Evidently asks for a download at first use."""
    import nltk

    download, nltk.download = nltk.download, lambda *_, **__: False
    try:
        yield
    finally:
        nltk.download = download
