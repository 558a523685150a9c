"""Takes the pictures of pages that the docs show, in Chromium: of MLflow's, 1,440 pixels wide, and the gateway's.

export LLMOPS_HOME=/tmp/home
llmops demo && llmops review open qa --rows 5 && python -m docs.screenshots mlflow
llmops lab insurance && python -m docs.screenshots what-if
"""

from __future__ import annotations

import base64
import json
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from deploy.services.servers import ui_server
from llmops.recording.cell import COMPLETE_TAG, PROMPT_TAG, find_runs
from llmops.recording.review import find_queue
from llmops.registry import Store
from llmops.settings import Settings
from tests.service.browser import Browser, chromium

IMAGES = Path(__file__).parent / "images"
LABS = Path(__file__).parent / "labs"
MARGIN = 16
"""Pixels around an element."""


# Of part 3 of docs/labs/insurance.md
POLICY = {
    "driver_age": 40, "ncd_years": 3, "conviction_points": 0, "vehicle_group": 20, "vehicle_age": 5,
    "annual_mileage": 10000, "band": '"C"', "accident_rate": 0.8,
}  # fmt: skip
_program = click.option("--chromium", "program", default="chromium", show_default=True)


@click.group()
def main() -> None:
    """Takes pictures of pages."""


@main.command()
@click.option("--suite", default="qa", show_default=True)
@_program
@click.option("--out", default=IMAGES, type=click.Path(path_type=Path, file_okay=False))
def mlflow(suite: str, program: str, out: Path) -> None:
    """Writes mlflow-comparison.png, mlflow-run.png and mlflow-review.png."""
    settings = Settings.from_environment()
    pages = dict(pages_of(Store(settings), suite))
    with (
        tempfile.TemporaryDirectory() as folder,
        ui_server(Path(folder), settings.home) as url,
        chromium(program) as browser,
    ):
        for name, (page, text) in pages.items():
            draw(browser, f"{url}/#/{page}", text)
            _keep(browser, out / f"mlflow-{name}.png")


@main.command()
@_program
@click.option("--out", default=LABS, type=click.Path(path_type=Path, file_okay=False))
def what_if(program: str, out: Path) -> None:
    """Writes insurance_what_if.png. Its predictions are in the home's log afterwards."""
    from service.serve import running_gateway

    with running_gateway(Settings.from_environment()) as url, chromium(program) as browser:
        browser.call("Emulation.setDeviceMetricsOverride", width=1000, height=900, deviceScaleFactor=1, mobile=False)
        browser.open(url)
        browser.wait("document.querySelector('[data-column]')")
        ages = {"#what-from": 18, "#what-to": 78}
        for place, value in {**{f"[data-column={name}]": value for name, value in POLICY.items()}, **ages}.items():
            browser.run(f"document.querySelector('{place}').value = {json.dumps(str(value))}")
        browser.click("#what-ask")
        browser.wait("document.querySelector('#what-chart svg')")
        _keep(browser, out / "insurance_what_if.png", "#what-section")


def _keep(browser: Browser, file: Path, selector: str | None = None) -> None:
    """Writes what the window shows, or one element and a margin around it."""
    options: dict[str, Any] = {}
    if selector is not None:
        place = browser.run(f"document.querySelector('{selector}').getBoundingClientRect().toJSON()")
        corner = {name: place[name] - MARGIN for name in ("x", "y")}
        clip = {**corner, **{name: place[name] + 2 * MARGIN for name in ("width", "height")}, "scale": 1}
        options = {"clip": clip, "captureBeyondViewport": True}
    picture = browser.call("Page.captureScreenshot", format="png", **options)["data"]
    file.write_bytes(base64.b64decode(picture))
    click.echo(file)


def pages_of(store: Store, suite: str) -> Iterator[tuple[str, tuple[str, str]]]:
    """By picture: the page, and a text that is there once it is drawn. Raises ClickException: there is no queue."""
    (experiment,) = store.experiment_ids(suite)
    newest: dict[str, str] = {}  # by prompt version
    for run in find_runs(store, [experiment], {COMPLETE_TAG: "true"}):
        newest.setdefault(run.data.tags[PROMPT_TAG], run.info.run_id)
    newer, older, *_ = newest.values()
    of_run = f"experiments/{experiment}/runs/{newer}"
    yield "comparison", (f"{of_run}/traces?compareToRunUuid={older}", "Assessments")
    yield "run", (of_run, "Registered prompts")
    store.make_current()
    if (queue := find_queue(experiment, suite)) is None:
        raise click.ClickException(f"there is no review queue; run `llmops review open {suite}`")
    of_queue = f"experiments/{experiment}/review-queue?selectedQueueId={queue.queue_id}"
    yield "review", (f"{of_queue}&startReview=true", "Is the answer correct?")


def draw(browser: Browser, url: str, text: str) -> None:
    """Opens a page, 1,440 pixels wide, and waits until it shows the text and stands still."""
    browser.call("Emulation.setDeviceMetricsOverride", width=1440, height=900, deviceScaleFactor=1, mobile=False)
    browser.open(url)
    browser.wait(f"document.body.innerText.includes({text!r})")
    before = ""
    while (now := browser.text()) != before:
        before = now
        time.sleep(1)


if __name__ == "__main__":
    main()
