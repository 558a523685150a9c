"""Takes the pictures of MLflow's pages in docs/images, in Chromium, 1,440 pixels wide, of the demo's home:

export LLMOPS_HOME=/tmp/home
llmops demo && llmops review open qa --rows 5 && python -m docs.screenshots
"""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import click

from deploy.services.servers import ui_server
from llmops.recording.cell import COMPLETE_TAG, PROMPT_TAG, find_runs
from llmops.recording.review import find_queue
from llmops.registry import Store
from llmops.settings import Settings
from tests.service.browser import Browser, chromium

IMAGES = Path(__file__).parent / "images"


@click.command()
@click.option("--suite", default="qa", show_default=True)
@click.option("--chromium", "program", default="chromium", show_default=True)
@click.option("--out", default=IMAGES, type=click.Path(path_type=Path, file_okay=False))
def main(suite: str, program: str, out: Path) -> None:
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
            picture = browser.call("Page.captureScreenshot", format="png")["data"]
            (out / f"mlflow-{name}.png").write_bytes(base64.b64decode(picture))
            click.echo(out / f"mlflow-{name}.png")


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
